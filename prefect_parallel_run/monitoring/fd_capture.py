"""What other processes write to a terminal that they have from this one, taken line by line instead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TextIO

_BLOCK = 1 << 16  #: bytes read at a time


class Diversion:
    """Leads a descriptor of this process into a pipe, from which complete lines are handed to *take*, in a thread.

    Processes that were started meanwhile keep the pipe: it is read on, and handed on, for as long as this process lives.

    Args:
        stream: A text stream with a descriptor, which processes inherit.
        take: Given text that ends at the end of a line.
    """

    def __init__(self, stream: TextIO, take: Callable[[str], object]) -> None:
        stream.flush()
        self._descriptor, self._take = stream.fileno(), take
        self._kept = os.dup(self._descriptor)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        #: What the stream wrote to before; for those who still want to reach it.
        self.real: TextIO = open(os.dup(self._kept), "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115, PTH123  kept
        self._read, write = os.pipe()
        os.dup2(write, self._descriptor)
        os.close(write)
        threading.Thread(target=self._pump, name="diversion", daemon=True).start()

    def end(self) -> None:
        """Let the descriptor be what it was."""
        os.dup2(self._kept, self._descriptor)
        os.close(self._kept)

    def _pump(self) -> None:
        held = b""
        while block := os.read(self._read, _BLOCK):
            held += block
            lines, end, held = held.rpartition(b"\n")
            if end:
                self._take((lines + end).decode("utf-8", "backslashreplace"))
        if held:
            self._take(held.decode("utf-8", "backslashreplace") + "\n")
