"""How far a run is, what is foretold, when that is worth a line, and its words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.units import MINI_BATCHES, count, format_seconds

_EVERY_SECONDS = 30.0
_EVERY_PERCENT = 5.0
_AT_MOST_EVERY = 2.0  #: s: a short run needs no line per 5 %
_FEWEST_PER_SLOT = 2  #: mini-batches that are finished before a time to go is told: the first ones are no measure
_SHORTEST = 1.0  #: s at work, the same


class LogThrottle:
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


class Forecast(NamedTuple):
    """What is to come of a run that goes on: one of these at most, since no time to go is true beside the others."""

    is_paused: bool = False
    held: Breach | None = None  #: the limit that is near: no new mini-batch until the pending tries are done
    waits_for: int = 0  #: mini-batches: all that are left are under way
    remaining: float | None = None  #: s still to go, at the pace so far

    def __str__(self) -> str:
        if self.is_paused:
            return "paused"
        if self.held is not None:
            return f"held back: {near_words(self.held)}"
        if self.waits_for:
            return f"waiting for {count(self.waits_for, *MINI_BATCHES)}"
        return "" if self.remaining is None else f"{format_seconds(self.remaining)} to go"


def forecast(
    tally: Tally,
    *,
    done: int,
    rate: float | None,
    at_work: float,
    slots: int,
    held: Breach | None = None,
    is_paused: bool = False,
) -> Forecast:
    """Return what is to come; a time to go only once it can be told.

    Args:
        tally: Counts now.
        done: Mini-batches that were finished at that rate.
        rate: Mini-batches per second.
        at_work: s for which work has gone on.
        slots: Processes that work; as far as it is known.
        held: The limit that is near.
        is_paused: A person wants no mini-batch to be begun.
    """
    left = tally.planned - tally.finished
    if is_paused:
        return Forecast(is_paused=True)
    if held is not None and not tally.all_scheduled:  # else there is nothing new to be held back
        return Forecast(held=held)
    if tally.is_growing or not left:
        return Forecast()
    if left <= max(slots, 1):  # how long they take does not depend on how fast others were
        return Forecast(waits_for=left)
    if not rate or done < _FEWEST_PER_SLOT * max(slots, 1) or at_work < _SHORTEST:
        return Forecast()
    return Forecast(remaining=left / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """How one driving of a run goes at a moment."""

    tally: Tally
    elapsed: float  #: s since it began
    at_work: float  #: s since its first try began, pauses left out
    done: int  #: mini-batches finished since it began
    slots: int = 0  #: processes that work; 0 while none is known
    held: Breach | None = None
    is_paused: bool = False

    @property
    def rate(self) -> float | None:
        """Return mini-batches per second, or None while nothing is finished."""
        return self.done / self.at_work if self.done > 0 and self.at_work > 0 else None

    @property
    def outlook(self) -> Forecast:
        """Return what is to come."""
        return forecast(
            self.tally,
            done=self.done,
            rate=self.rate,
            at_work=self.at_work,
            slots=self.slots,
            held=self.held,
            is_paused=self.is_paused,
        )


def done_percent(tally: Tally) -> float:
    """Return the share of mini-batches whose outcome is final, 0 to 100."""
    return 100.0 * tally.finished / tally.planned if tally.planned else 100.0


def percent_words(tally: Tally) -> str:
    """Return that share in whole percent: 100 only when all is done.

    >>> percent_words(Tally(planned=150, succeeded=103)), percent_words(Tally(planned=1000, succeeded=999))
    ('68 %', '99 %')
    """
    return f"{int(done_percent(tally))} %"


def near_words(breach: Breach) -> str:
    """Return which limit is near.

    >>> near_words(Breach("error_threshold", 4, 20))
    'error_threshold 4 is near'
    """
    return f"{breach.limit} {breach.allowed:g} is near"


def failed_words(tally: Tally) -> str:
    """Return what has failed for good."""
    return f"{count(tally.failed, *MINI_BATCHES)} and {count(tally.failed_items, 'item')} failed"


def sentence(going: ProgressSnapshot) -> str:
    """Return the counts, the rate and what is to come as one line."""
    tally = going.tally
    share = "the input is still being listed" if tally.is_growing else percent_words(tally)
    words = f"{tally.finished} of {tally.planned} mini-batches ({share}), {tally.succeeded_items} items"
    if tally.failed or tally.failed_items:
        words += f", {failed_words(tally)}"
    if tally.waiting:
        words += f", {tally.waiting} waiting for another try"
    if going.rate is not None:
        words += f", {going.rate:.1f} mini-batches/s"
    outlook = str(going.outlook)
    return f"{words}, {outlook}" if outlook else words
