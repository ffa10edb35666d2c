"""Runs calls that may hang on threads of their own, with a timeout and cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_INTERVAL = 0.1  #: s between two checks for cancellation
_NEVER = threading.Event()


class CallAbandonedError(Exception):
    """A call has timed out or was cancelled; the argument says which."""


def begin(call: Callable[[], T], undo: Callable[[T], Any] = lambda _: None) -> Future[T]:
    """Start *call* on a daemon thread, which can be left behind if it never returns; return a future of its result.

    If the future is cancelled, the thread passes the result of *call* to *undo*.
    """
    future: Future[T] = Future()
    threading.Thread(target=_run, args=(call, future, undo), name="call-that-may-hang", daemon=True).start()
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
