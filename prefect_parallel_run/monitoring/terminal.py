"""Shows a run of this process on one line of a terminal: its current phase, then bar, counts, rate, failures, time to go.

The command line activates a view before the step runs; it is then a listener of the run, wherever in Prefect the step runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, cast

from rich.console import Console, ConsoleOptions
from rich.text import Text

from prefect_parallel_run._units import count, format_seconds
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.progress import (
    ProgressSnapshot,
    ProgressTracker,
    describe_near_limit,
    done_percent,
    format_percent,
)
from prefect_parallel_run.runs.events import ExecutionEnded, Progressed, RunEvent, RunStarted
from prefect_parallel_run.runs.run_directory import RunDirectory

_WIDEST, _NARROWEST = 40, 8  #: columns of the bar
_GAP = "  "
_view: ContextVar[RunView | None] = ContextVar("prefect_parallel_run_view", default=None)


class RunView:
    """The current state of a run; rich can draw it in any thread at any time.

    Args:
        name: Name of the step.
        clock: Monotonic clock, s.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.directory = name, cast("RunDirectory | None", None)
        self._clock = clock
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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield self.line(options.max_width - 1, ascii_only=options.ascii_only)  # some terminals wrap after the last column

    def line(self, width: int, *, ascii_only: bool = False) -> Text:
        """Return the current line, at most *width* columns wide."""
        if self._tally is None:
            return waiting_line(self.name, self._phase, self._clock() - self._since, width)
        return progress_line(self.name, self._tracker.snapshot(self._tally), width, ascii_only=ascii_only)


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


class _Part(NamedTuple):
    """A part of the line; a narrow line leaves out the parts with the highest rank first."""

    rank: int
    text: str
    style: str = ""


def progress_line(name: str, snapshot: ProgressSnapshot, width: int, *, ascii_only: bool = False) -> Text:
    """Return the line, at most *width* columns wide; it reads the same without colors.

    Args:
        name: Name of the step.
        snapshot: Progress to show.
        width: Columns.
        ascii_only: The terminal shows no other characters.
    """
    parts, tally = list(_parts(name, snapshot)), snapshot.tally
    while len(parts) > 1 and _joined(parts).cell_len > width:
        parts.remove(max(parts))
    free = min(width - _joined(parts).cell_len - len(_GAP), _WIDEST)
    texts = [Text(part.text, part.style) for part in parts]
    if free >= _NARROWEST and not tally.is_growing:
        texts.insert(int(parts[0].text == name), percent_bar(done_percent(tally), free, ascii_only=ascii_only))
    return _fitting(Text(_GAP).join(texts), width)


def waiting_line(name: str, phase: str, elapsed: float, width: int) -> Text:
    """Return the line to show before there are counts, at most *width* columns wide."""
    return _fitting(Text(_GAP.join((name, phase, format_seconds(elapsed))), "dim"), width)


def _parts(name: str, snapshot: ProgressSnapshot) -> Iterator[_Part]:
    """Yield the parts from left to right."""
    tally, forecast = snapshot.tally, snapshot.forecast
    yield _Part(10, name, "bold")
    if not tally.is_growing:
        yield _Part(0, f"{format_percent(tally):>5}")
    yield _Part(1, f"{tally.finished:,} of {tally.planned:,} mini-batches{' so far' if tally.is_growing else ''}")
    yield _Part(8, count(tally.succeeded_items, "item"))
    if snapshot.rate is not None:
        yield _Part(5, f"{snapshot.rate:.1f}/s")
    if tally.failed or tally.failed_items:
        yield _Part(2, f"{tally.failed:,} failed ({count(tally.failed_items, 'item')})", "red")
    if tally.waiting:
        yield _Part(6, f"{tally.waiting:,} awaiting retry")
    if forecast.held is not None:
        yield _Part(4, "on hold", "bold")
        yield _Part(9, describe_near_limit(forecast.held))
    elif forecast.is_paused:
        yield _Part(4, str(forecast), "bold")
    yield _Part(7, format_seconds(snapshot.elapsed), "dim")
    if str(forecast) and forecast.held is None and not forecast.is_paused:
        yield _Part(3, str(forecast))


def _joined(parts: Sequence[_Part]) -> Text:
    return Text(_GAP.join(part.text for part in parts))


def _fitting(text: Text, width: int) -> Text:
    text.truncate(width)
    return text


def clipped(text: str, width: int) -> str:
    """Return *text*, cut to *width* with an ellipsis.

    >>> clipped("mini-batches", 8), clipped("items", 8)
    ('mini-ba…', 'items')
    """
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def percent_bar(percent: float, width: int, *, ascii_only: bool = False) -> Text:
    """Return a bar of *width* columns; it is full only at 100 percent."""
    full = int(width * percent / 100)
    done, rest = "#-" if ascii_only else "━─"
    return Text.assemble((done * full, "green"), (rest * (width - full), "dim"))
