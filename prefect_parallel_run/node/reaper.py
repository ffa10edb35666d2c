"""Kills every process of a node when its Dask worker has exited or was killed.

``Guard`` runs this file as a separate program, with the marker of the node's children and their scratch folder as its
arguments. It waits until the worker's end of its standard input closes, then kills every process that has the marker in its
environment, and every process in the same session: children that are stuck in C code or ignore SIGTERM, and the processes that
they started. Then it removes the scratch folder. It imports the standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_PATIENCE = 5.0  #: s of scanning again for processes that were started during a scan
_SOON = 5.0  #: s; a reaper that dies within this time is replaced after a pause, which doubles each time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  #: s


class Guard:
    """Keeps a reaper running, and watches it on a thread of its own, which sleeps until the reaper exits.

    The reaper kills the processes with *marker* (``NAME=value``) in their environment, and removes the folder *scratch*.
    *on_replaced* is called with the exit status of a lost reaper, once its replacement runs.
    """

    def __init__(self, marker: str, scratch: str, on_replaced: Callable[[int], None] = lambda _: None) -> None:
        self._marker, self._scratch, self._on_replaced = marker, scratch, on_replaced
        self._is_closed = threading.Event()
        self._lock = threading.Lock()  # for the current reaper
        self._reaper = self._start_reaper()
        self._thread = threading.Thread(target=self._watch, name="watch-reaper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Kill the processes, remove the folder, and wait for both."""
        with self._lock:
            self._is_closed.set()
            self._close_stdin()
        self._thread.join()

    def _watch(self) -> None:
        pause, began = 0.0, time.monotonic()
        while True:
            status = self._reaper.wait()
            if self._is_closed.is_set():
                break
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE) if time.monotonic() < began + _SOON else 0.0
            self._is_closed.wait(pause)
            began = time.monotonic()
            with suppress(OSError):  # out of processes or memory: retried after the pause
                self._replace()
                self._on_replaced(status)
        if status != 0:  # it was killed before it had finished
            kill_marked(os.fsencode(self._marker))
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        """Start a reaper; it kills once its standard input is closed, which happens also when this process dies."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._marker, self._scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _replace(self) -> None:
        replacement = self._start_reaper()
        with self._lock:
            self._close_stdin()  # it has exited: this closes its pipe
            self._reaper = replacement
            if self._is_closed.is_set():
                self._close_stdin()

    def _close_stdin(self) -> None:
        if self._reaper.stdin is not None:
            self._reaper.stdin.close()


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
