"""Watches over a node: closes it when its flow process stops sending keep-alives, and replaces its reaper when that is killed.

Workers of a shared cluster outlive the step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from prefect_parallel_run.node import reaper

PATIENCE = 40.0  #: s without a keep-alive from the flow process
EVERY = 5.0  #: s between two keep-alives
_POLL_INTERVAL = 1.0  #: s
_SOON = 5.0  #: s; a reaper that dies within this time is replaced after a pause, which doubles each time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0  #: s


class Watchdog:
    """Calls *on_timeout*, once and on a thread of its own, after *patience* seconds without ``reset``."""

    def __init__(self, on_timeout: Callable[[], None], patience: float = PATIENCE) -> None:
        self._on_timeout, self._patience = on_timeout, patience
        self._last_reset = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="keep-node", daemon=True).start()

    def reset(self) -> None:
        """Record a keep-alive."""
        self._last_reset = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(_POLL_INTERVAL, self._patience / 4)):
            if time.monotonic() - self._last_reset > self._patience:
                self._on_timeout()
                return


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
            reaper.kill_marked(os.fsencode(self._marker))
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        """Start a reaper; it kills once its standard input is closed, which happens also when this process dies."""
        return subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, self._marker, self._scratch],
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
