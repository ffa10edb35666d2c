"""Shows a run of this process on a terminal: its current phase, then bar and counts.

The command line activates a view before the step runs; it is then a listener of the run, wherever in Prefect the step runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.bar import Style, progress_line, waiting_line
from prefect_parallel_run.monitoring.progress import ProgressTracker
from prefect_parallel_run.runs.events import ExecutionEnded, Progressed, RunEvent, RunStarted
from prefect_parallel_run.runs.run_directory import RunDirectory

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
        self._tracker = ProgressTracker(clock)

    def doing(self, phase: str) -> None:
        """Show *phase* and the seconds since this call, until there are counts."""
        self._phase, self._since, self._tally = phase, self._clock(), None

    def handle(self, event: RunEvent) -> None:
        """Update counts and phase."""
        self._tracker.handle(event)
        match event:
            case RunStarted(directory, tally):
                self.directory, self._tally = directory, tally
            case Progressed(tally):
                self._tally = tally
            case ExecutionEnded():
                self.doing("finishing")

    def line(self, width: int) -> str:
        """Return the current line, at most *width* columns wide."""
        if self._tally is None:
            return waiting_line(self.name, self._phase, self._clock() - self._since, width, self._style)
        return progress_line(self.name, self._tracker.snapshot(self._tally), width, self._style)


@contextmanager
def use_view(view: RunView) -> Iterator[None]:
    """Let steps that run in this context update *view*."""
    token = _view.set(view)
    try:
        yield
    finally:
        _view.reset(token)


def active_views() -> list[RunView]:
    """Return the view of this context, if there is one."""
    view = _view.get()
    return [] if view is None else [view]
