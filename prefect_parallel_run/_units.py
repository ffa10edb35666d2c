"""Parses, tests and formats plain values: sizes, durations, counts, values in errors. Pure, and quick to import."""

from __future__ import annotations

import re
from typing import Any

MINI_BATCHES = ("mini-batch", "mini-batches")  #: singular and plural for `count`
FAILED_ATTEMPTS = ("failed attempt", "failed attempts")  #: singular and plural for `count`
_SIZE = re.compile(r"([0-9]+)(KB|MB|GB)?", re.IGNORECASE)
_FACTOR = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_MAX_SHOWN = 200  #: characters of an invalid value in an error


def parse_size(text: str) -> int:
    """Parse digits, or digits and KB, MB or GB in any case (1024-based).

    >>> parse_size("10MB"), parse_size("007")
    (10485760, 7)
    """
    match = _SIZE.fullmatch(text)
    if match is None or not text.isascii():
        raise ValueError("digits, or digits and KB, MB or GB, without spaces, signs or decimal points")
    return int(match[1]) * _FACTOR[(match[2] or "").upper()]


def format_size(size: float) -> str:
    """Return a size in bytes as text.

    >>> format_size(1_610_612_736), format_size(12)
    ('1.5 GB', '12 bytes')
    """
    for unit in ("GB", "MB", "KB"):
        if size >= _FACTOR[unit]:
            return f"{size / _FACTOR[unit]:.1f} {unit}"
    return f"{size:.0f} bytes"


def format_seconds(seconds: float) -> str:
    """Return a duration as text.

    >>> format_seconds(125), format_seconds(7_300), format_seconds(0.25)
    ('2 min 5 s', '2 h 1 min', '0.2 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def count(number: float, one: str = "", many: str = "") -> str:
    """Return a number as text, with the singular *one* or the plural *many* of a noun.

    >>> count(12345), count(1, "try", "tries"), count(2, "node")
    ('12,345', '1 try', '2 nodes')
    """
    digits = f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"
    return f"{digits} {one if number == 1 else many or one + 's'}" if one else digits


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
