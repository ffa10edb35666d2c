"""How far a run is, as one line of a terminal: bar, counts, rate, failures, time to go. Pure."""

from __future__ import annotations

from typing import NamedTuple

from prefect_parallel_run.monitoring.progress import ProgressSnapshot, done_percent, near_words, percent_words
from prefect_parallel_run.units import count, format_seconds

_WIDEST, _NARROWEST = 40, 8  #: columns of the bar itself
_GAP = "  "
_CODES = {"good": "32", "bad": "31", "dim": "2", "strong": "1", "": ""}


class Style(NamedTuple):
    """What a terminal can show."""

    colours: bool = True
    unicode: bool = True


class _Part(NamedTuple):
    """A part of the line; those of the highest rank are left out first where it is narrow."""

    rank: int
    text: str
    colour: str = ""


def progress_line(name: str, going: ProgressSnapshot, width: int, style: Style) -> str:
    """Return the line, *width* columns wide at most; it says in words what its colours say.

    Args:
        name: Of the step.
        going: What it tells of.
        width: Columns.
        style: What the terminal can show.
    """
    parts, tally = _parts(name, going), going.tally
    while len(parts) > 1 and _length(parts) > width:
        parts.remove(max(parts))
    left = min(width - _length(parts) - len(_GAP), _WIDEST)
    words = [_painted(part.text[:width], part.colour, style) for part in sorted(parts, key=_place)]
    if left >= _NARROWEST and not tally.is_growing:
        words.insert(1 if any(part.rank == _NAME for part in parts) else 0, percent_bar(done_percent(tally), left, style))
    return _GAP.join(words)


def waiting_line(name: str, doing: str, elapsed: float, width: int, style: Style) -> str:
    """Return the line for a time in which there are no counts yet, *width* columns wide at most."""
    text = f"{name}{_GAP}{doing}{_GAP}{format_seconds(elapsed)}"
    return _painted(text[:width], "dim", style)


_PERCENT, _COUNTS, _FAILED, _TO_GO, _STATE, _RATE, _WAITING, _ELAPSED, _ITEMS, _WHY, _NAME = range(11)
_ORDER = (_NAME, _PERCENT, _COUNTS, _ITEMS, _RATE, _FAILED, _WAITING, _STATE, _WHY, _ELAPSED, _TO_GO)


def _parts(name: str, going: ProgressSnapshot) -> list[_Part]:
    tally = going.tally
    parts = [_Part(_NAME, name, "strong"), _Part(_ELAPSED, format_seconds(going.elapsed), "dim")]
    if tally.is_growing:
        parts.append(_Part(_COUNTS, f"{tally.finished:,} of {tally.planned:,} mini-batches so far"))
    else:
        parts.append(_Part(_PERCENT, f"{percent_words(tally):>5}"))
        parts.append(_Part(_COUNTS, f"{tally.finished:,} of {tally.planned:,} mini-batches"))
    parts.append(_Part(_ITEMS, count(tally.succeeded_items, "item")))
    if going.rate is not None:
        parts.append(_Part(_RATE, f"{going.rate:.1f}/s"))
    if tally.failed or tally.failed_items:
        parts.append(_Part(_FAILED, f"{tally.failed:,} failed ({count(tally.failed_items, 'item')})", "bad"))
    if tally.waiting:
        parts.append(_Part(_WAITING, f"{tally.waiting:,} to be tried again"))
    return parts + _outlook(going)


def _outlook(going: ProgressSnapshot) -> list[_Part]:
    outlook = going.outlook
    if outlook.held is not None:
        return [_Part(_STATE, "held back", "strong"), _Part(_WHY, near_words(outlook.held))]
    if outlook.is_paused:
        return [_Part(_STATE, str(outlook), "strong")]
    return [_Part(_TO_GO, str(outlook))] if str(outlook) else []


def _place(part: _Part) -> int:
    return _ORDER.index(part.rank)


def _length(parts: list[_Part]) -> int:
    return sum(len(part.text) for part in parts) + len(_GAP) * (len(parts) - 1)


def clipped(text: str, width: int) -> str:
    """Return *text*, cut where it is too long; it says that it goes on.

    >>> clipped("mini-batches", 8), clipped("items", 8)
    ('mini-ba…', 'items')
    """
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def percent_bar(percent: float, width: int, style: Style) -> str:
    """Return a bar of *width* columns; full only at 100."""
    full = int(width * percent / 100)
    done, rest = ("━", "─") if style.unicode else ("#", "-")
    return _painted(done * full, "good", style) + _painted(rest * (width - full), "dim", style)


def _painted(text: str, colour: str, style: Style) -> str:
    code = _CODES[colour]
    return f"\x1b[{code}m{text}\x1b[0m" if style.colours and code and text else text
