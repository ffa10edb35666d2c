"""Captures line by line what this process and its child processes write to a file descriptor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TextIO

_BLOCK = 1 << 16  #: bytes read at a time


class FdCapture:
    """Redirects a descriptor of this process into a pipe; a thread passes complete lines to *write*.

    Processes started during the capture keep the pipe: the thread reads it until this process exits.

    Args:
        stream: A text stream with a descriptor, which child processes inherit.
        write: Called with text that ends with a newline.
    """

    def __init__(self, stream: TextIO, write: Callable[[str], object]) -> None:
        stream.flush()
        self._descriptor, self._write = stream.fileno(), write
        self._saved = os.dup(self._descriptor)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        #: The original destination of the stream.
        self.original: TextIO = open(os.dup(self._saved), "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115, PTH123  stays open after the block; a descriptor is not a path
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
