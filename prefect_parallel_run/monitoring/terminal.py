"""What a person at a terminal sees of a run that this process drives: the phase it is in, then bar and counts.

The command line sets a view up before the step runs; the step's own Watch then tells it what happens, wherever in Prefect that
runs. Without a view nothing changes.
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

W = TypeVar("W")
_view: ContextVar[RunView | None] = ContextVar("prefect_parallel_run_view", default=None)


class RunView:
    """What is known of a run, ready to be drawn at any time and from any thread.

    Args:
        name: Of the step.
        style: What the terminal can show.
        clock: Monotonic, s.
    """

    def __init__(self, name: str, style: Style, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.directory = name, cast("RunDirectory | None", None)
        self._style, self._clock = style, clock
        self._doing, self._since = "starting", clock()
        self._tally: Tally | None = None
        self.course = ProgressTracker(Tally(), clock)  #: of the driving that it sees

    def doing(self, words: str) -> None:
        """Show *words* and the seconds since now, until there are counts."""
        self._doing, self._since, self._tally = words, self._clock(), None

    def began(self, directory: RunDirectory, tally: Tally) -> None:
        """Show counts from now on."""
        self.directory, self.course, self._tally = directory, ProgressTracker(tally, self._clock), tally

    def progressed(self, tally: Tally) -> None:
        """Show other counts."""
        self._tally = tally

    def line(self, width: int) -> str:
        """Return what is shown now, *width* columns wide at most."""
        if self._tally is None:
            return waiting_line(self.name, self._doing, self._clock() - self._since, width, self._style)
        return progress_line(self.name, self.course.going(self._tally), width, self._style)


@contextmanager
def use_view(view: RunView) -> Iterator[None]:
    """Have steps that run in this context tell *view*."""
    token = _view.set(view)
    try:
        yield
    finally:
        _view.reset(token)


def with_view(watch: W) -> W:
    """Return a watch that tells the view of this context as well; *watch* itself where there is none."""
    view = _view.get()
    return watch if view is None else cast("W", _Seen(watch, view))


class _Seen:
    """Passes everything on to a watch, and tells a view what it shows."""

    def __init__(self, watch: Any, view: RunView) -> None:
        self._watch, self._view = watch, view

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        self._view.began(run, tally)
        self._watch.began(run, tally, dashboard)

    def progressed(self, tally: Tally) -> None:
        self._view.progressed(tally)
        self._watch.progressed(tally)

    def node_joined(self, facts: NodeFacts) -> None:
        self._view.course.node_joined(facts)
        self._watch.node_joined(facts)

    def node_left(self, node: str) -> None:
        self._view.course.node_gone(node)
        self._watch.node_left(node)

    def node_released(self, node: str) -> None:
        self._view.course.node_gone(node)
        self._watch.node_released(node)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        self._view.course.committed(receipts)
        self._watch.committed(receipts)

    def held(self, breach: Breach | None) -> None:
        self._view.course.held(breach)
        self._watch.held(breach)

    def paused(self, is_paused: bool) -> None:
        self._view.course.paused(is_paused)
        self._watch.paused(is_paused)

    def ended(self, ledger: Ledger) -> None:
        self._view.doing("finishing")
        self._watch.ended(ledger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)
