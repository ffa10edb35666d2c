r"""A status line: the last line of a terminal, redrawn several times a second below all other output.

While the line is shown, the output of this process and its child processes passes through here: the line is erased, the text is
written, and the line is redrawn below it, so that neither garbles the other. A log handler or a child process that keeps one of
the streams can continue to write to it after the line is removed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO, cast

from prefect_parallel_run.monitoring.bar import Style
from prefect_parallel_run.monitoring.fd_capture import FdCapture

_INTERVAL = 0.2  #: s between two drawings
_ERASE = "\r\x1b[2K"


class StatusLine:
    """Shows a status line on a terminal during a ``with`` block.

    Args:
        stream: The terminal; must have a file descriptor.
        line: Returns the text for a number of columns; called in a background thread.
    """

    def __init__(self, stream: TextIO, line: Callable[[int], str]) -> None:
        self._shared_stream, self._line = stream, line
        self._stream = stream  #: the original terminal once its descriptor is captured
        self._lock = threading.RLock()
        self._is_drawn = self._is_closed = self._is_mid_line = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="status-line", daemon=True)
        self._saved_streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._captures: list[FdCapture] = []

    def __enter__(self) -> StatusLine:
        self._saved_streams = (sys.stdout, sys.stderr)
        self._stream = self._capture(self._shared_stream)
        sys.stderr = cast("TextIO", _StreamAboveLine(self, self._stream))
        if sys.stdout.isatty():
            sys.stdout = cast("TextIO", _StreamAboveLine(self, self._capture(sys.stdout)))
        self._thread.start()
        return self

    def _capture(self, stream: TextIO) -> TextIO:
        """Capture the descriptor of *stream* and return its original destination."""
        capture = FdCapture(stream, lambda text: self.write_above(self._stream, text))
        self._captures.append(capture)
        return capture.original

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        with self._lock:
            self._is_closed = True
            self._erase()
        sys.stdout, sys.stderr = self._saved_streams
        for capture in self._captures:
            capture.stop()
        self._thread.join()

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write *text* above the line to a stream of the same terminal."""
        with self._lock:
            self._erase()
            written = stream.write(text)
            stream.flush()
            if text:
                self._is_mid_line = not text.endswith("\n")
            self._draw()
        return written

    def _redraw(self) -> None:
        while not self._stopping.wait(_INTERVAL):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if self._is_closed or self._is_mid_line:
            return
        width = columns_of(self._stream) - 1  # some terminals wrap after the last column
        self._stream.write(_ERASE + self._line(width))
        self._stream.flush()
        self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._is_drawn = False


class _StreamAboveLine:
    """A stream that writes above the line; other attributes are those of the wrapped stream."""

    def __init__(self, line: StatusLine, stream: TextIO) -> None:
        self._status_line, self._stream = line, stream

    def write(self, text: str) -> int:
        return self._status_line.write_above(self._stream, text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def can_redraw(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal that can erase a line."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def style_of(stream: TextIO) -> Style:
    """Return what a terminal supports, from its encoding and the variable NO_COLOR."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return Style(colours=not os.environ.get("NO_COLOR"), unicode=encoding.replace("-", "") in ("utf8", "utf16"))


def columns_of(stream: TextIO) -> int:
    """Return the width of a terminal."""
    columns = os.get_terminal_size(stream.fileno()).columns
    return columns if columns > 0 else 80  # a pseudo-terminal without a size reports 0
