"""The course of one driving of a run: at which pace it goes, and what holds it up, from what an observer is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
from prefect_parallel_run.node.settings import NodeFacts


class ProgressTracker:
    """Hears what happens, and knows at any time how it goes.

    The time at work begins with the first try, not with the start of processes; pauses are no part of it.

    Args:
        tally: Counts as the driving begins.
        clock: Monotonic, s.
    """

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        self.begun_with = tally
        self._clock = clock
        self._begun = self._work_begun = clock()
        self._has_results = False
        self._slots: dict[str, int] = {}  # by node
        self._held: Breach | None = None
        self._paused_since: float | None = None
        self._paused_for = 0.0  # s, since the work began

    def node_joined(self, facts: NodeFacts) -> None:
        """Take note of a node with its slots."""
        self._slots[facts.node] = facts.slots

    def node_gone(self, node: str) -> None:
        """Take note that a node was lost, or given back."""
        self._slots.pop(node, None)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Take note of tries that have ended, one after the other in one slot."""
        if not self._has_results:
            self._has_results = True
            self._work_begun = max(self._begun, self._clock() - sum(receipt.seconds for receipt in receipts))
            self._paused_for = 0.0

    def held(self, breach: Breach | None) -> None:
        """Take note that new mini-batches are held back, or handed out again."""
        self._held = breach

    def paused(self, is_paused: bool) -> None:
        """Take note that a person wants no mini-batch to be begun, or wants them again."""
        if is_paused:
            self._paused_since = self._clock()
        elif self._paused_since is not None:
            self._paused_for += self._clock() - self._paused_since
            self._paused_since = None

    def going(self, tally: Tally) -> ProgressSnapshot:
        """Return how it goes now, with these counts."""
        now = self._clock()
        until = now if self._paused_since is None else self._paused_since
        return ProgressSnapshot(
            tally=tally,
            elapsed=now - self._begun,
            at_work=max(until - self._work_begun - self._paused_for, 0.0),
            done=tally.finished - self.begun_with.finished,
            slots=sum(self._slots.values()),
            held=self._held,
            is_paused=self._paused_since is not None,
        )
