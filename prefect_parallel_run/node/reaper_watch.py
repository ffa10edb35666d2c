"""Keeps a reaper running as long as its node exists: one that is killed is replaced."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from prefect_parallel_run.node import reaper

_SOON = 5.0  #: s; a reaper that dies within this time is replaced after a pause, which doubles each time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  #: s


def _ignore(_: int) -> None:
    """Ignore the exit status of a lost reaper."""


class Guard:
    """Keeps a reaper running, and watches it on a thread of its own, which sleeps until the reaper exits.

    Args:
        marker: Environment entry of the processes to kill, ``NAME=value``.
        scratch: Folder to remove afterwards.
        on_replaced: Called with the exit status of a lost reaper, once its replacement runs.
    """

    def __init__(self, marker: str, scratch: str, on_replaced: Callable[[int], None] = _ignore) -> None:
        self._marker, self._scratch, self._on_replaced = marker, scratch, on_replaced
        self._is_closed = threading.Event()
        self._lock = threading.Lock()  # for the current reaper
        self._reaper = reaper.start(marker, scratch)
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
            reaper.kill_marked(os.fsencode(self._marker))
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _replace(self) -> None:
        replacement = reaper.start(self._marker, self._scratch)
        with self._lock:
            self._close_stdin()  # it has exited: this closes its pipe
            self._reaper = replacement
            if self._is_closed.is_set():
                self._close_stdin()

    def _close_stdin(self) -> None:
        if self._reaper.stdin is not None:
            self._reaper.stdin.close()
