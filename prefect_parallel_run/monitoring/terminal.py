"""One line of a terminal for a run of this process: its current phase, then bar, counts, rate, failures, time to go.

The command line activates a view before the step runs; it is then a listener of the run, wherever in Prefect the step runs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO, cast

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.live import Live
from rich.text import Text

from prefect_parallel_run._units import MINI_BATCHES, count, format_seconds
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
_REDRAWS_PER_SECOND = 5
_UNLIMITED = 1 << 16  #: columns of a file or pipe
_BLOCK = 1 << 16  #: bytes read at a time


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
        """Show *phase* and the seconds since the first call with it, until there are counts."""
        self._phase, self._since, self._tally = phase, self._since if phase == self._phase else self._clock(), None

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
    """A part of the line; if the line is too narrow, the part with the highest rank is left out first."""

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
    yield _Part(1, f"{tally.finished:,} of {count(tally.planned, *MINI_BATCHES)}{' so far' if tally.is_growing else ''}")
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


class StatusLine:
    """Shows a status line on a terminal during a ``with`` block.

    Args:
        stream: The terminal; must have a file descriptor.
        line: What to show as the last line of the terminal; rendered in a background thread.
    """

    def __init__(self, stream: TextIO, line: RenderableType) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self._shared_stream, self._line = stream, line
        #: A copy of the terminal's descriptor: the descriptor of *stream* itself is captured.
        self._terminal = open(os.dup(stream.fileno()), "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115, PTH123  stays open after the block; a descriptor is not a path
        self._lock = threading.RLock()
        self._unfinished = ""  #: output without its line end; shown instead of the status line
        self._console = console_of(self._terminal)
        self._live = Live(
            console=self._console,
            get_renderable=self._last_line,
            refresh_per_second=_REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,  # rich would show text without a line end only when the line is complete
            redirect_stderr=False,
        )
        self._saved_streams = (sys.stdout, sys.stderr)
        self._captures: list[_FdCapture] = []

    def __enter__(self) -> StatusLine:
        self._saved_streams = (sys.stdout, sys.stderr)
        above = cast("TextIO", _StreamAboveLine(self, self._terminal))
        if sys.stdout.isatty() and os.path.sameopenfile(sys.stdout.fileno(), self._shared_stream.fileno()):
            self._captures.append(_FdCapture(sys.stdout, self.write_above))
            sys.stdout = above
        self._captures.append(_FdCapture(self._shared_stream, self.write_above))
        sys.stderr = above
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._live.stop()
            self.write_above(self._unfinished)
        sys.stdout, sys.stderr = self._saved_streams
        for capture in self._captures:
            capture.stop()

    def write_above(self, text: str) -> None:
        """Write *text* above the line; without the line, as it is."""
        with self._lock:
            if not self._live.is_started:
                self._terminal.write(text)
                self._terminal.flush()
                return
            *lines, self._unfinished = map(_overwritten, (self._unfinished + text).split("\n"))
            if lines:
                self._console.out("\n".join(lines), highlight=False)
            self._live.refresh()

    def _last_line(self) -> RenderableType:
        fit_to_terminal(self._console)
        return Text.from_ansi(self._unfinished, no_wrap=True) if self._unfinished else self._line


def _overwritten(line: str) -> str:
    r"""Return what a terminal shows of a line: the text after the last carriage return.

    >>> _overwritten("10 %\r20 %"), _overwritten("end\r")
    ('20 %', 'end')
    """
    return line.removesuffix("\r").rpartition("\r")[2]


class _StreamAboveLine:
    """A stream that writes above the line; other attributes are those of the terminal."""

    def __init__(self, line: StatusLine, stream: TextIO) -> None:
        self._status_line, self._stream = line, stream

    def write(self, text: str) -> int:
        self._status_line.write_above(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _FdCapture:
    """Redirects a descriptor of this process, which child processes inherit, to a pipe; passes complete lines to *write*.

    Processes started during the capture keep the pipe: a thread reads it until this process exits.
    """

    def __init__(self, stream: TextIO, write: Callable[[str], object]) -> None:
        stream.flush()
        self._descriptor, self._write = stream.fileno(), write
        self._saved = os.dup(self._descriptor)
        self._pipe, pipe_end = os.pipe()
        os.dup2(pipe_end, self._descriptor)
        os.close(pipe_end)
        threading.Thread(target=self._read_lines, name="fd-capture", daemon=True).start()

    def stop(self) -> None:
        """Restore the descriptor."""
        os.dup2(self._saved, self._descriptor)
        os.close(self._saved)

    def _read_lines(self) -> None:
        pending = b""
        while block := os.read(self._pipe, _BLOCK):
            pending += block
            lines, end, pending = pending.rpartition(b"\n")
            if end:
                self._write((lines + end).decode("utf-8", "backslashreplace"))
        if pending:
            self._write(pending.decode("utf-8", "backslashreplace") + "\n")


def console_of(stream: TextIO) -> Console:
    """Return a console for *stream*: colors only at a terminal without ``NO_COLOR``, no wrapping anywhere else."""
    is_terminal = can_redraw(stream)
    console = Console(
        file=stream,
        force_terminal=is_terminal,
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        width=_UNLIMITED,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if is_terminal:
        fit_to_terminal(console)
    return console


def fit_to_terminal(console: Console) -> None:
    """Set the size of a console to the current one of its terminal; rich itself takes that of the standard streams."""
    columns, rows = os.get_terminal_size(console.file.fileno())
    console.size = ConsoleDimensions(columns or 80, rows or 25)  # a pseudo-terminal without a size reports 0


def can_redraw(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal that can erase a line."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
