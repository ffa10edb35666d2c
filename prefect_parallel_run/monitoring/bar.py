"""The progress of a run as one terminal line: bar, counts, rate, failures, time to go. Pure."""

from __future__ import annotations

from typing import NamedTuple

from prefect_parallel_run._units import count, format_seconds
from prefect_parallel_run.monitoring.progress import ProgressSnapshot, describe_near_limit, done_percent, format_percent

_WIDEST, _NARROWEST = 40, 8  #: columns of the bar itself
_GAP = "  "
_CODES = {"good": "32", "bad": "31", "dim": "2", "strong": "1", "": ""}


class Style(NamedTuple):
    """What a terminal supports."""

    colours: bool = True
    unicode: bool = True


class _Part(NamedTuple):
    """A part of the line; a narrow line leaves out the parts with the highest rank first."""

    rank: int
    text: str
    colour: str = ""


def progress_line(name: str, snapshot: ProgressSnapshot, width: int, style: Style) -> str:
    """Return the line, at most *width* columns wide; it reads the same without colours.

    Args:
        name: Name of the step.
        snapshot: Progress to show.
        width: Columns.
        style: What the terminal supports.
    """
    parts, tally = _parts(name, snapshot), snapshot.tally
    while len(parts) > 1 and _length(parts) > width:
        parts.remove(max(parts))
    free = min(width - _length(parts) - len(_GAP), _WIDEST)
    segments = [_painted(part.text[:width], part.colour, style) for part in sorted(parts, key=_position)]
    if free >= _NARROWEST and not tally.is_growing:
        segments.insert(1 if any(part.rank == _NAME for part in parts) else 0, percent_bar(done_percent(tally), free, style))
    return _GAP.join(segments)


def waiting_line(name: str, doing: str, elapsed: float, width: int, style: Style) -> str:
    """Return the line to show before there are counts, at most *width* columns wide."""
    text = f"{name}{_GAP}{doing}{_GAP}{format_seconds(elapsed)}"
    return _painted(text[:width], "dim", style)


_PERCENT, _COUNTS, _FAILED, _TO_GO, _STATE, _RATE, _WAITING, _ELAPSED, _ITEMS, _WHY, _NAME = range(11)
_ORDER = (_NAME, _PERCENT, _COUNTS, _ITEMS, _RATE, _FAILED, _WAITING, _STATE, _WHY, _ELAPSED, _TO_GO)


def _parts(name: str, snapshot: ProgressSnapshot) -> list[_Part]:
    tally = snapshot.tally
    parts = [_Part(_NAME, name, "strong"), _Part(_ELAPSED, format_seconds(snapshot.elapsed), "dim")]
    if tally.is_growing:
        parts.append(_Part(_COUNTS, f"{tally.finished:,} of {tally.planned:,} mini-batches so far"))
    else:
        parts.append(_Part(_PERCENT, f"{format_percent(tally):>5}"))
        parts.append(_Part(_COUNTS, f"{tally.finished:,} of {tally.planned:,} mini-batches"))
    parts.append(_Part(_ITEMS, count(tally.succeeded_items, "item")))
    if snapshot.rate is not None:
        parts.append(_Part(_RATE, f"{snapshot.rate:.1f}/s"))
    if tally.failed or tally.failed_items:
        parts.append(_Part(_FAILED, f"{tally.failed:,} failed ({count(tally.failed_items, 'item')})", "bad"))
    if tally.waiting:
        parts.append(_Part(_WAITING, f"{tally.waiting:,} awaiting retry"))
    return parts + _forecast_parts(snapshot)


def _forecast_parts(snapshot: ProgressSnapshot) -> list[_Part]:
    forecast = snapshot.forecast
    if forecast.held is not None:
        return [_Part(_STATE, "on hold", "strong"), _Part(_WHY, describe_near_limit(forecast.held))]
    if forecast.is_paused:
        return [_Part(_STATE, str(forecast), "strong")]
    return [_Part(_TO_GO, str(forecast))] if str(forecast) else []


def _position(part: _Part) -> int:
    return _ORDER.index(part.rank)


def _length(parts: list[_Part]) -> int:
    return sum(len(part.text) for part in parts) + len(_GAP) * (len(parts) - 1)


def clipped(text: str, width: int) -> str:
    """Return *text*, cut to *width* with an ellipsis.

    >>> clipped("mini-batches", 8), clipped("items", 8)
    ('mini-ba…', 'items')
    """
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def percent_bar(percent: float, width: int, style: Style) -> str:
    """Return a bar of *width* columns; it is full only at 100 percent."""
    full = int(width * percent / 100)
    done, rest = ("━", "─") if style.unicode else ("#", "-")
    return _painted(done * full, "good", style) + _painted(rest * (width - full), "dim", style)


def _painted(text: str, colour: str, style: Style) -> str:
    code = _CODES[colour]
    return f"\x1b[{code}m{text}\x1b[0m" if style.colours and code and text else text
