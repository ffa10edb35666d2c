r"""A status line: the last line of a terminal, redrawn several times a second below all other output.

While the line is shown, the output of this process and its child processes passes through here and appears above the line, so
that neither garbles the other. A log handler or a child process that keeps one of the streams can continue to write to it after
the line is removed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live
from rich.text import Text

_REDRAWS_PER_SECOND = 5
_UNLIMITED = 1 << 16  #: columns of a file or pipe
_BLOCK = 1 << 16  #: bytes read at a time


class StatusLine:
    """Shows a status line on a terminal during a ``with`` block.

    Args:
        stream: The terminal; must have a file descriptor.
        line: Its last line; rendered in a background thread.
    """

    def __init__(self, stream: TextIO, line: RenderableType) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self._shared_stream, self._line = stream, line
        #: The terminal, apart from the descriptor of *stream*, which is captured.
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
    """Redirects a descriptor of this process, which child processes inherit, into a pipe; passes complete lines to *write*.

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
