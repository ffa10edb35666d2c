"""What a plain value is, and how an error shows one that is wrong. Pure, and quick to import: the command line begins here."""

from __future__ import annotations

from typing import Any

_LONGEST_SHOWN = 200  #: characters of a wrong value in an error


def shown(value: Any) -> str:
    """Return a value as an error shows it, not endless."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def is_int(value: Any) -> bool:
    """True for a whole number; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """True for a finite number."""
    return (is_int(value) or isinstance(value, float)) and value == value and abs(value) != float("inf")  # noqa: PLR0124  NaN
