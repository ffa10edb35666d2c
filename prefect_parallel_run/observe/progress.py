"""When progress is worth a line, and its words. Pure."""

from __future__ import annotations

from prefect_parallel_run.records import Tally
from prefect_parallel_run.units import MINI_BATCHES, count, format_seconds

_EVERY_SECONDS = 30.0
_EVERY_PERCENT = 5.0
_AT_MOST_EVERY = 2.0  #: s: a short run needs no line per 5 %


class Pace:
    """Says when progress should be told again: after 30 s, or 5 % more."""

    def __init__(self, now: float) -> None:
        self._told_at, self._told_percent = now, 0.0

    def is_due(self, tally: Tally, now: float) -> bool:
        """True when it should be told now (monotonic clock, s); it is then taken as told."""
        percent = done_percent(tally)
        waited, more = now - self._told_at, percent - self._told_percent
        if waited < _AT_MOST_EVERY or (waited < _EVERY_SECONDS and more < _EVERY_PERCENT):
            return False
        self._told_at, self._told_percent = now, percent
        return True


def done_percent(tally: Tally) -> float:
    """Return the share of mini-batches whose outcome is final, 0 to 100."""
    return 100.0 * tally.finished / tally.planned if tally.planned else 100.0


def remaining_seconds(tally: Tally, begun_with: int, elapsed: float) -> float | None:
    """Return the seconds still to go at the pace so far, or None when that cannot be told yet.

    Args:
        tally: Counts now.
        begun_with: Mini-batches that were finished when this driving began.
        elapsed: Seconds since then.
    """
    done = tally.finished - begun_with
    return elapsed * (tally.planned - tally.finished) / done if done > 0 and not tally.is_growing else None


def failed_words(tally: Tally) -> str:
    """Return what has failed for good."""
    return f"{count(tally.failed, *MINI_BATCHES)} and {count(tally.failed_items, 'item')} failed"


def sentence(tally: Tally, begun_with: int, elapsed: float) -> str:
    """Return the counts, the rate and the time to go as one line."""
    share = "the input is still being listed" if tally.is_growing else f"{done_percent(tally):.0f} %"
    words = f"{tally.finished} of {tally.planned} mini-batches ({share}), {tally.succeeded_items} items"
    if tally.failed or tally.failed_items:
        words += f", {failed_words(tally)}"
    if tally.waiting:
        words += f", {tally.waiting} waiting for another try"
    if elapsed > 0:
        words += f", {(tally.finished - begun_with) / elapsed:.1f} mini-batches/s"
    remaining = remaining_seconds(tally, begun_with, elapsed)
    return words if remaining is None else f"{words}, {format_seconds(remaining)} to go"
