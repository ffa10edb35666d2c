"""A guardian that exists as long as its node does: one that is killed is replaced."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from prefect_parallel_run.node import reaper

_SOON = 5.0  #: s; a guardian that ends within these is replaced after a pause, which doubles each time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  #: s


def _unheard(_: int) -> None:
    """Ignore the end of a guardian."""


class Guard:
    """Keeps a guardian running, and watches it on a thread of its own, which sleeps until the guardian ends.

    Args:
        marker: In the environment of the processes to end, ``NAME=value``.
        scratch: Folder to remove when they have ended.
        tell: Called with the exit status of a guardian that was lost, once another one runs.
    """

    def __init__(self, marker: str, scratch: str, tell: Callable[[int], None] = _unheard) -> None:
        self._marker, self._scratch, self._tell = marker, scratch, tell
        self._is_over = threading.Event()
        self._lock = threading.Lock()  # of the guardian that counts
        self._guardian = reaper.start(marker, scratch)
        self._thread = threading.Thread(target=self._watch, name="watch-guardian", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the processes and remove the folder; return when that is done."""
        with self._lock:
            self._is_over.set()
            self._let_it_work()
        self._thread.join()

    def _watch(self) -> None:
        pause, began = 0.0, time.monotonic()
        while True:
            status = self._guardian.wait()
            if self._is_over.is_set():
                break
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE) if time.monotonic() < began + _SOON else 0.0
            self._is_over.wait(pause)
            began = time.monotonic()
            with suppress(OSError):  # no process or no memory is left: tried again after the pause
                self._replace()
                self._tell(status)
        if status != 0:  # it was killed before its work was done
            reaper.end(os.fsencode(self._marker))
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _replace(self) -> None:
        successor = reaper.start(self._marker, self._scratch)
        with self._lock:
            self._let_it_work()  # it has ended: this gives its pipe back
            self._guardian = successor
            if self._is_over.is_set():
                self._let_it_work()

    def _let_it_work(self) -> None:
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
