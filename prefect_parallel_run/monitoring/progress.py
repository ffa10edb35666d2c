"""Progress of a run, computed from its events: counts, rate and forecast; when to log it, and as which message."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prefect_parallel_run._units import MINI_BATCHES, count, format_seconds
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.runs.events import (
    NodeJoined,
    NodeLost,
    NodeReleased,
    ReceiptsCommitted,
    RunContinued,
    RunEvent,
    RunPaused,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
)

_EVERY_SECONDS = 30.0
_EVERY_PERCENT = 5.0
_MIN_INTERVAL = 2.0  #: s: a short run needs no line per 5 %
_MIN_PER_SLOT = 2  #: mini-batches finished before a forecast: the first ones are often slower
_MIN_ACTIVE_SECONDS = 1.0  #: before a forecast


class LogThrottle:
    """Limits progress messages to one every 30 s or 5 %."""

    def __init__(self, now: float) -> None:
        self._logged_at, self._logged_percent = now, 0.0

    def is_due(self, tally: Tally, now: float) -> bool:
        """Return whether to log now (monotonic clock, s); True counts as logged."""
        percent = done_percent(tally)
        waited, gained = now - self._logged_at, percent - self._logged_percent
        if waited < _MIN_INTERVAL or (waited < _EVERY_SECONDS and gained < _EVERY_PERCENT):
            return False
        self._logged_at, self._logged_percent = now, percent
        return True


class Forecast(NamedTuple):
    """Outlook of an unfinished run. At most one field is set: the time to go of a paused or waiting run is unpredictable."""

    is_paused: bool = False
    held: Breach | None = None  #: the limit that is near: no new mini-batch starts until the pending attempts are done
    waits_for: int = 0  #: mini-batches: all that remain are running
    remaining: float | None = None  #: s, at the rate so far

    def __str__(self) -> str:
        if self.is_paused:
            return "paused"
        if self.held is not None:
            return f"on hold: {describe_near_limit(self.held)}"
        if self.waits_for:
            return f"waiting for {count(self.waits_for, *MINI_BATCHES)}"
        return "" if self.remaining is None else f"{format_seconds(self.remaining)} to go"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """The progress of one execution of a run at one moment."""

    tally: Tally
    elapsed: float  #: s since the execution started
    active_seconds: float  #: since its first attempt started, without pauses
    done: int  #: mini-batches finished in this execution
    slots: int = 0  #: running processes; 0 if unknown
    held: Breach | None = None  #: the limit that is near
    is_paused: bool = False  #: a control command has paused the run

    @property
    def rate(self) -> float | None:
        """Return mini-batches per second; None until one is finished."""
        return self.done / self.active_seconds if self.done > 0 and self.active_seconds > 0 else None

    @property
    def forecast(self) -> Forecast:
        """Return the forecast at the rate so far."""
        return self.forecast_at(self.rate)

    def forecast_at(self, rate: float | None) -> Forecast:
        """Return the forecast; it has a time to go only if *rate*, in mini-batches per second, is based on enough of them."""
        remaining, slots = self.tally.planned - self.tally.finished, max(self.slots, 1)
        if self.is_paused:
            return Forecast(is_paused=True)
        if self.held is not None and not self.tally.all_scheduled:  # otherwise nothing is left to hold back
            return Forecast(held=self.held)
        if self.tally.is_growing or not remaining:
            return Forecast()
        if remaining <= slots:  # the rate of the finished ones does not predict the running ones
            return Forecast(waits_for=remaining)
        if not rate or self.done < _MIN_PER_SLOT * slots or self.active_seconds < _MIN_ACTIVE_SECONDS:
            return Forecast()
        return Forecast(remaining=remaining / rate)


def done_percent(tally: Tally) -> float:
    """Return the percentage of finished mini-batches, 0 to 100."""
    return 100.0 * tally.finished / tally.planned if tally.planned else 100.0


def format_percent(tally: Tally) -> str:
    """Return the percentage of finished mini-batches, rounded down: 100 only when all are finished.

    >>> format_percent(Tally(planned=150, succeeded=103)), format_percent(Tally(planned=1000, succeeded=999))
    ('68 %', '99 %')
    """
    return f"{int(done_percent(tally))} %"


def describe_near_limit(breach: Breach) -> str:
    """Return a message that names the limit and its value.

    >>> describe_near_limit(Breach("error_threshold", 4, 20))
    'error_threshold 4 is near'
    """
    return f"{breach.limit} {breach.allowed:g} is near"


def describe_failures(tally: Tally) -> str:
    """Return the counts of failed mini-batches and items."""
    return f"{count(tally.failed, *MINI_BATCHES)} and {count(tally.failed_items, 'item')} failed"


def progress_message(snapshot: ProgressSnapshot) -> str:
    """Return counts, rate and forecast as one line."""
    tally = snapshot.tally
    share = "the input is still being listed" if tally.is_growing else format_percent(tally)
    message = f"{tally.finished:,} of {count(tally.planned, *MINI_BATCHES)} ({share}), {count(tally.succeeded_items, 'item')}"
    if tally.failed or tally.failed_items:
        message += f", {describe_failures(tally)}"
    if tally.waiting:
        message += f", {tally.waiting} awaiting retry"
    if snapshot.rate is not None:
        message += f", {snapshot.rate:.1f} mini-batches/s"
    outlook = str(snapshot.forecast)
    return f"{message}, {outlook}" if outlook else message


class ProgressTracker:
    """Listens to events and returns a snapshot of the progress at any time.

    Active time starts with the first attempt, not with the start of processes, and excludes pauses.

    Args:
        clock: Monotonic, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.initial_tally = Tally()  #: counts at the start of the execution
        self._clock = clock
        self._started = self._work_started = clock()
        self._has_results = False
        self._slots: dict[str, int] = {}  # by node
        self._held: Breach | None = None
        self._paused_since: float | None = None
        self._paused_for = 0.0  # s, since the first attempt

    def handle(self, event: RunEvent) -> None:
        """Record what changes counts, rate or forecast."""
        match event:
            case RunStarted(tally=tally):
                self.initial_tally = tally
                self._started = self._work_started = self._clock()
            case NodeJoined(facts):
                self._slots[facts.node] = facts.slots
            case NodeLost(node) | NodeReleased(node):
                self._slots.pop(node, None)
            case ReceiptsCommitted(receipts) if not self._has_results:
                self._start_work(receipts)
            case SchedulingPaused(breach):
                self._held = breach
            case SchedulingResumed():
                self._held = None
            case RunPaused():
                self._paused_since = self._clock()
            case RunContinued() if self._paused_since is not None:
                self._paused_for += self._clock() - self._paused_since
                self._paused_since = None

    def _start_work(self, receipts: Sequence[Receipt]) -> None:
        """Set the start of the active time to that of the first attempts, which ran one after another in one slot."""
        self._has_results = True
        self._work_started = max(self._started, self._clock() - sum(receipt.seconds for receipt in receipts))
        self._paused_for = 0.0

    def snapshot(self, tally: Tally) -> ProgressSnapshot:
        """Return the progress now, with the counts in *tally*."""
        now = self._clock()
        until = now if self._paused_since is None else self._paused_since
        return ProgressSnapshot(
            tally=tally,
            elapsed=now - self._started,
            active_seconds=max(until - self._work_started - self._paused_for, 0.0),
            done=tally.finished - self.initial_tally.finished,
            slots=sum(self._slots.values()),
            held=self._held,
            is_paused=self._paused_since is not None,
        )
