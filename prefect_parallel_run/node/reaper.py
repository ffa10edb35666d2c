"""Ends every process of a node when its Dask worker is gone, however it went.

``start`` runs this file as a program of its own, with the marker of the node's children and their scratch folder as its
arguments. It waits until the worker's end of its standard input closes, then kills every process that has the marker in its
environment, with all that share a session with one: children stuck in C code or deaf to SIGTERM, and whatever they started
themselves. Then it removes the scratch folder. Nothing is imported beyond the standard library.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_PATIENCE = 5.0  #: s of looking again for processes that were started while we looked


def start(marker: str, scratch: str) -> subprocess.Popen[bytes]:
    """Start a guardian; it does its work once its standard input is closed, which the end of this process does too."""
    import subprocess  # noqa: PLC0415  the program itself does without it, and starts in half the time

    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, marker, scratch],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def marked(marker: bytes) -> Iterator[int]:
    """Yield the ids of all other processes whose environment has the entry *marker* (``NAME=value``)."""
    for process in _others():
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if marker in environment.split(b"\0"):
            yield process


def end(marker: bytes) -> None:
    """Kill all processes with *marker*, and those in their sessions, until none is found."""
    deadline = time.monotonic() + _PATIENCE
    sessions: set[int] = set()
    while time.monotonic() < deadline:
        found = set(marked(marker))
        sessions |= {session for process in found if (session := _session(process)) is not None}
        found |= {process for process in _others() if _session(process) in sessions}
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not found:
            return
        time.sleep(0.01)


def _others() -> Iterator[int]:
    """Yield the ids of all other processes that are alive."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid() and not _is_zombie(entry.path):
            yield int(entry.name)


def _is_zombie(path: str) -> bool:
    """True for a process that has ended and only waits to be noticed, which no signal can hasten."""
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
        signal.signal(ignored, signal.SIG_IGN)  # it outlives whatever ends the worker
    while os.read(0, 1024):
        pass
    end(os.fsencode(sys.argv[1]))
    shutil.rmtree(sys.argv[2], ignore_errors=True)
