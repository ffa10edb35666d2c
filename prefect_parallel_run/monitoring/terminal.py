"""Shows a run of this process on a terminal: its current phase, then bar and counts.

The command line activates a view before the step runs; the step's listener then updates it, wherever in Prefect the step runs.
Without an active view the listener works as usual.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.bar import Style, progress_line, waiting_line
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

L = TypeVar("L")
_view: ContextVar[RunView | None] = ContextVar("prefect_parallel_run_view", default=None)


class RunView:
    """The current state of a run; any thread can draw it at any time.

    Args:
        name: Name of the step.
        style: What the terminal supports.
        clock: Monotonic clock, s.
    """

    def __init__(self, name: str, style: Style, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.directory = name, cast("RunDirectory | None", None)
        self._style, self._clock = style, clock
        self._phase, self._since = "starting", clock()
        self._tally: Tally | None = None
        self.tracker = ProgressTracker(Tally(), clock)  #: progress of the execution

    def doing(self, phase: str) -> None:
        """Show *phase* and the seconds since this call, until there are counts."""
        self._phase, self._since, self._tally = phase, self._clock(), None

    def began(self, directory: RunDirectory, tally: Tally) -> None:
        """Show counts from now on."""
        self.directory, self.tracker, self._tally = directory, ProgressTracker(tally, self._clock), tally

    def progressed(self, tally: Tally) -> None:
        """Update the counts."""
        self._tally = tally

    def line(self, width: int) -> str:
        """Return the current line, at most *width* columns wide."""
        if self._tally is None:
            return waiting_line(self.name, self._phase, self._clock() - self._since, width, self._style)
        return progress_line(self.name, self.tracker.snapshot(self._tally), width, self._style)


@contextmanager
def use_view(view: RunView) -> Iterator[None]:
    """Let steps that run in this context update *view*."""
    token = _view.set(view)
    try:
        yield
    finally:
        _view.reset(token)


def with_view(listener: L) -> L:
    """Return a listener that also updates the view of this context; without a view, *listener* itself."""
    view = _view.get()
    return listener if view is None else cast("L", _ViewUpdater(listener, view))


class _ViewUpdater:
    """Forwards all events to a listener and updates a view with those that it shows."""

    def __init__(self, listener: Any, view: RunView) -> None:
        self._listener, self._view = listener, view

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        self._view.began(run, tally)
        self._listener.began(run, tally, dashboard)

    def progressed(self, tally: Tally) -> None:
        self._view.progressed(tally)
        self._listener.progressed(tally)

    def node_joined(self, node_info: NodeFacts) -> None:
        self._view.tracker.node_joined(node_info)
        self._listener.node_joined(node_info)

    def node_left(self, node: str) -> None:
        self._view.tracker.node_removed(node)
        self._listener.node_left(node)

    def node_released(self, node: str) -> None:
        self._view.tracker.node_removed(node)
        self._listener.node_released(node)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        self._view.tracker.committed(receipts)
        self._listener.committed(receipts)

    def held(self, breach: Breach | None) -> None:
        self._view.tracker.held(breach)
        self._listener.held(breach)

    def paused(self, is_paused: bool) -> None:
        self._view.tracker.paused(is_paused)
        self._listener.paused(is_paused)

    def ended(self, ledger: Ledger) -> None:
        self._view.doing("finishing")
        self._listener.ended(ledger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)
