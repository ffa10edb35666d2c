"""Kills every process of a node when its Dask worker has exited or was killed.

watchdog.py runs this file as a separate program, with the marker of the node's children and their scratch folder as its
arguments. It waits until the worker's end of its standard input closes, then kills every process that has the marker in its
environment, and every process in the same session: children that are stuck in C code or ignore SIGTERM, and the processes that
they started. Then it removes the scratch folder. It imports the standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 5.0  #: s of scanning again for processes that were started during a scan


def marked(marker: bytes) -> Iterator[int]:
    """Yield the ids of all other processes whose environment has the entry *marker* (``NAME=value``)."""
    for process in _other_processes():
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if marker in environment.split(b"\0"):
            yield process


def kill_marked(marker: bytes) -> None:
    """Kill all processes with *marker*, and those in their sessions, until none is found."""
    deadline = time.monotonic() + _PATIENCE
    sessions: set[int] = set()
    while time.monotonic() < deadline:
        processes = set(marked(marker))
        sessions |= {session for process in processes if (session := _session(process)) is not None}
        processes |= {process for process in _other_processes() if _session(process) in sessions}
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not processes:
            return
        time.sleep(0.01)


def _other_processes() -> Iterator[int]:
    """Yield the ids of all other processes that are alive."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid() and not _is_zombie(entry.path):
            yield int(entry.name)


def _is_zombie(path: str) -> bool:
    """True for a process that has exited and waits for its parent, which a signal cannot hasten."""
    try:
        return Path(path, "stat").read_bytes().rpartition(b")")[2].split()[:1] == [b"Z"]
    except OSError:
        return True


def _session(process: int) -> int | None:
    try:
        return os.getsid(process)
    except OSError:
        return None


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it must survive the signals that end the worker
    while os.read(0, 1024):
        pass
    kill_marked(os.fsencode(sys.argv[1]))
    shutil.rmtree(sys.argv[2], ignore_errors=True)
