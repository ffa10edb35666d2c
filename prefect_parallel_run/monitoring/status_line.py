r"""The last line of a terminal, drawn anew several times a second; what anybody else writes goes above it.

Everything that this process and those it starts write to the terminal passes through here while the line is there: the line is
taken away, the text is written, and the line is drawn again below. So neither ever garbles the other. Whoever keeps one of the
streams (a log handler does, and a process that was started) may go on writing to it when the line is gone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO, cast

from prefect_parallel_run.monitoring.bar import Style
from prefect_parallel_run.monitoring.fd_capture import Diversion

_EVERY = 0.2  #: s between two drawings
_ERASE = "\r\x1b[2K"


class StatusLine:
    """A status line on *stream*, a terminal, as long as the ``with`` block lasts.

    Args:
        stream: Where it is drawn; one with a descriptor.
        line: Returns its text for a number of columns; called in a thread of its own.
    """

    def __init__(self, stream: TextIO, line: Callable[[int], str]) -> None:
        self._given, self._line = stream, line
        self._stream = stream  #: the terminal itself, once others are kept away from it
        self._lock = threading.RLock()
        self._is_drawn = self._is_over = self._is_within_a_line = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="status-line", daemon=True)
        self._before: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._diversions: list[Diversion] = []

    def __enter__(self) -> StatusLine:
        self._before = (sys.stdout, sys.stderr)
        self._stream = self._divert(self._given)
        sys.stderr = cast("TextIO", _Above(self, self._stream))
        if sys.stdout.isatty():
            sys.stdout = cast("TextIO", _Above(self, self._divert(sys.stdout)))
        self._thread.start()
        return self

    def _divert(self, stream: TextIO) -> TextIO:
        """Keep others away from a stream, and return what it wrote to."""
        diversion = Diversion(stream, lambda text: self.write_above(self._stream, text))
        self._diversions.append(diversion)
        return diversion.real

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        with self._lock:
            self._is_over = True
            self._erase()
        sys.stdout, sys.stderr = self._before
        for diversion in self._diversions:
            diversion.end()
        self._thread.join()

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write *text* to a stream of the same terminal, above the line."""
        with self._lock:
            self._erase()
            written = stream.write(text)
            stream.flush()
            if text:
                self._is_within_a_line = not text.endswith("\n")
            self._draw()
        return written

    def _draw_on(self) -> None:
        while not self._over.wait(_EVERY):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        if self._is_over or self._is_within_a_line:
            return
        self._stream.write(
            _ERASE + self._line(columns_of(self._stream) - 1)
        )  # in the last column some terminals begin a new line
        self._stream.flush()
        self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            self._stream.write(_ERASE)
            self._stream.flush()
            self._is_drawn = False


class _Above:
    """A stream whose text goes above the line; everything else is the stream's own."""

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
    """True for a terminal whose lines can be drawn anew."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def style_of(stream: TextIO) -> Style:
    """Return what a terminal can show, as far as its environment tells; NO_COLOR counts."""
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return Style(colours=not os.environ.get("NO_COLOR"), unicode=encoding.replace("-", "") in ("utf8", "utf16"))


def columns_of(stream: TextIO) -> int:
    """Return how wide a terminal is."""
    columns = os.get_terminal_size(stream.fileno()).columns
    return columns if columns > 0 else 80  # a pseudo-terminal that nobody gave a size
