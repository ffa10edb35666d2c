"""Tests for plain values, and their display in errors. Pure, and quick to import: the command line needs it to start."""

from __future__ import annotations

from typing import Any

_MAX_SHOWN = 200  #: characters of an invalid value in an error


def shown(value: Any) -> str:
    """Return a value for an error message, truncated."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def is_int(value: Any) -> bool:
    """True for an integer that is not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """True for a finite number."""
    return (is_int(value) or isinstance(value, float)) and value == value and abs(value) != float("inf")  # noqa: PLR0124  false for NaN
