"""Tracks the progress of one execution of a run from its events: rate, running processes, pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
from prefect_parallel_run.node.settings import NodeFacts


class ProgressTracker:
    """Records events and returns a snapshot of the progress at any time.

    Active time starts with the first attempt, not with the start of processes, and excludes pauses.

    Args:
        tally: Counts at the start of the execution.
        clock: Monotonic, s.
    """

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        self.initial_tally = tally
        self._clock = clock
        self._started = self._work_started = clock()
        self._has_results = False
        self._slots: dict[str, int] = {}  # by node
        self._held: Breach | None = None
        self._paused_since: float | None = None
        self._paused_for = 0.0  # s, since the first attempt

    def node_joined(self, node_info: NodeFacts) -> None:
        """Record a node and its number of processes."""
        self._slots[node_info.node] = node_info.slots

    def node_removed(self, node: str) -> None:
        """Record that a node was lost or released."""
        self._slots.pop(node, None)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Record committed attempts; they ran one after another in one slot."""
        if not self._has_results:
            self._has_results = True
            self._work_started = max(self._started, self._clock() - sum(receipt.seconds for receipt in receipts))
            self._paused_for = 0.0

    def held(self, breach: Breach | None) -> None:
        """Record that scheduling is on hold near a limit, or resumed for None."""
        self._held = breach

    def paused(self, is_paused: bool) -> None:
        """Record that a control command paused or resumed the run."""
        if is_paused:
            self._paused_since = self._clock()
        elif self._paused_since is not None:
            self._paused_for += self._clock() - self._paused_since
            self._paused_since = None

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
