"""Ends every process of a node when its Dask worker is gone, however it went.

Run as a program of its own, with the marker of the node's children as its argument. It waits until the worker's end of its
standard input closes, then kills every process that has the marker in its environment: children stuck in C code or deaf to
SIGTERM, and whatever they started themselves. Nothing is imported beyond the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 5.0  #: s of looking again for processes that were started while we looked


def marked(marker: bytes) -> Iterator[int]:
    """Yield the ids of all other processes whose environment contains *marker*."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = Path(entry.path, "environ").read_bytes()
            except OSError:  # ended meanwhile, or another user's
                continue
            if marker in environment:
                yield int(entry.name)


def end(marker: bytes) -> None:
    """Kill all processes with *marker* until none is found."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = list(marked(marker))
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not found:
            return
        time.sleep(0.01)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it outlives whatever ends the worker
    while os.read(0, 1024):
        pass
    end(os.fsencode(sys.argv[1]))
