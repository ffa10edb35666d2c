"""Cancellation, and work on background threads: work that can be cancelled, and calls that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Generic, TypeVar

from typing_extensions import Self

T = TypeVar("T")
CheckCancelled = Callable[[], None]  #: called regularly during long work; raises when the work is to stop
_POLL_INTERVAL = 0.1  #: s between two cancellation checks of the waiting thread
_STOP_TIMEOUT = 5.0  #: s for the work to notice that it was cancelled
_NEVER = threading.Event()


def never_cancelled() -> None:
    """Let the work run to its end; the default ``check_cancelled``."""


class Cancelled(BaseException):
    """Raised in background work that was cancelled."""


class Background(Generic[T]):
    """Runs *work* in a thread, from the first ``start`` or ``wait``.

    *work* receives a callback to call regularly, which raises ``Cancelled`` when the result is no longer needed.
    From then on *interrupt* is called repeatedly until the work ends; it interrupts a blocking call of the work.
    """

    def __init__(self, name: str, work: Callable[[CheckCancelled], T], interrupt: Callable[[], Any] = lambda: None) -> None:
        self._interrupt = interrupt
        self._cancelled = threading.Event()
        self._future: Future[T] = Future()
        self._thread = _thread(name, lambda: work(self._check_cancelled), self._future)

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

    def wait(self, check_cancelled: CheckCancelled = never_cancelled) -> T:
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
        deadline = time.monotonic() + _STOP_TIMEOUT
        while not wait_for([self._future], timeout=_POLL_INTERVAL).done and time.monotonic() < deadline:
            self._interrupt()  # again, since it may have come before the call that it interrupts

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def chain_checks(*checks: CheckCancelled) -> CheckCancelled:
    """Return a cancellation check that calls all *checks*, in order."""

    def check_cancelled() -> None:
        for check in checks:
            check()

    return check_cancelled


def cancelled_after(seconds: float) -> CheckCancelled:
    """Return a cancellation check that raises Cancelled once *seconds* have passed."""
    deadline = time.monotonic() + seconds

    def check_cancelled() -> None:
        if time.monotonic() > deadline:
            raise Cancelled

    return check_cancelled


class CallAbandonedError(Exception):
    """A call has timed out or was cancelled; the argument says which."""


def begin(call: Callable[[], T], undo: Callable[[T], Any] = lambda _: None, *, name: str = "call-that-may-hang") -> Future[T]:
    """Start *call* on a daemon thread, which can be left behind if it never returns; return a future of its result.

    If the future is cancelled, the thread passes the result of *call* to *undo*.
    """
    future: Future[T] = Future()
    _thread(name, call, future, undo).start()
    return future


def call_with_timeout(
    call: Callable[[], T],
    timeout: float,
    cancelled: threading.Event = _NEVER,
    *,
    grace: float = 0.0,
    undo: Callable[[T], Any] = lambda _: None,
) -> T:
    """Return the result of *call*, unless it hangs.

    Args:
        call: Function to call.
        timeout: s.
        cancelled: Ends the wait.
        grace: s to wait after *cancelled* is set.
        undo: Called with the result of *call* if it returns after the timeout or cancellation.

    Raises:
        CallAbandonedError: It has not returned; it continues in the background, and its result is passed to *undo*.
    """
    future = begin(call, undo)
    deadline = time.monotonic() + timeout
    is_shortened = False
    while not wait_for([future], timeout=min(_POLL_INTERVAL, max(deadline - time.monotonic(), 0.0))).done:
        if cancelled.is_set() and not is_shortened:
            is_shortened, deadline = True, min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline and future.cancel():  # else it has just returned
            raise CallAbandonedError("cancelled" if cancelled.is_set() else f"no answer within {timeout:g} s")
    return future.result()


def _thread(name: str, call: Callable[[], T], future: Future[T], undo: Callable[[T], Any] = lambda _: None) -> threading.Thread:
    return threading.Thread(target=_run, args=(call, future, undo), name=name, daemon=True)


def _run(call: Callable[[], T], future: Future[T], undo: Callable[[T], Any]) -> None:
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001  passed to the caller through the future
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        return
    if future.set_running_or_notify_cancel():
        future.set_result(value)
    else:
        undo(value)
