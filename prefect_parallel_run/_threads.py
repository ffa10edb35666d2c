"""Runs work in a background thread that can be cancelled while another thread waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

from typing_extensions import Self

T = TypeVar("T")
_POLL_INTERVAL = 0.1  #: s between two cancellation checks of the waiting thread
_STOP_TIMEOUT = 5.0  #: s for the work to notice that it was cancelled


class Cancelled(BaseException):
    """Raised in background work that was cancelled."""


class Background(Generic[T]):
    """Runs *work* in a thread, from the first ``start`` or ``wait``.

    *work* receives a callback to call regularly, which raises ``Cancelled`` when the result is no longer needed.
    """

    def __init__(self, name: str, work: Callable[[Callable[[], None]], T]) -> None:
        self._cancelled = threading.Event()
        self._future: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)

    def start(self) -> Self:
        """Start the work without waiting for it."""
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C may arrive when the thread is already running
            self._cancelled.set()
            raise
        return self

    def is_over(self) -> bool:
        """Return whether the work is done; raises its error."""
        if not self._future.done():
            return False
        self._future.result()
        return True

    def wait(self, check_cancelled: Callable[[], None]) -> T:
        """Return the result of the work; it stops when *check_cancelled*, called meanwhile, raises, or on Ctrl-C.

        Work that was not started yet starts here, where Ctrl-C cannot leave it running.
        """
        try:
            if self._thread.ident is None:
                self.start()
            while not wait_for([self._future], timeout=_POLL_INTERVAL).done:
                check_cancelled()
        except BaseException:  # Ctrl-C may arrive in the wait itself
            self.stop()
            raise
        return self._future.result()

    def stop(self) -> None:
        """Cancel the work and wait some seconds for it to end."""
        self._cancelled.set()
        wait_for([self._future], timeout=_STOP_TIMEOUT)

    def _run(self, work: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._future.set_result(work(self._check_cancelled))
        except BaseException as error:  # noqa: BLE001  raised again in the waiting thread
            self._future.set_exception(error)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def chain_checks(*checks: Callable[[], None]) -> Callable[[], None]:
    """Return a cancellation check that calls all *checks*, in order."""

    def check_cancelled() -> None:
        for check in checks:
            check()

    return check_cancelled
