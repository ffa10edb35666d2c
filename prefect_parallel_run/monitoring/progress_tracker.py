"""Tracks the progress of one execution of a run from its events: rate, running processes, pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
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
        """Start the active time before the first attempts; they ran one after another in one slot."""
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
