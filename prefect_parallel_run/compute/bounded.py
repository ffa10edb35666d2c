"""Calls that may hang: begun on a thread of their own, and waited for no longer than anybody wants what comes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

T = TypeVar("T")
_GLANCE = 0.1  #: s between two looks whether anybody still waits
_NEVER = threading.Event()


class CallAbandonedError(Exception):
    """A call has not come back in time, or nobody waits for it any more; the argument says which."""


def begin(do: Callable[[], T], undo: Callable[[T], Any] = lambda _: None) -> Future[T]:
    """Call *do* on a daemon thread, which can be left behind should it never come back; return what will come of it.

    Once the future is cancelled, what *do* returns is undone, on the thread.
    """
    outcome: Future[T] = Future()
    threading.Thread(target=_call, args=(do, outcome, undo), name="call-that-may-hang", daemon=True).start()
    return outcome


def bounded(
    do: Callable[[], T],
    timeout: float,
    cancelled: threading.Event = _NEVER,
    *,
    grace: float = 0.0,
    undo: Callable[[T], Any] = lambda _: None,
) -> T:
    """Return what *do* returns, unless it hangs.

    Args:
        do: What to call.
        timeout: s.
        cancelled: Ends the wait.
        grace: s that are waited on once *cancelled* is set.
        undo: Called with what *do* returns when nobody waits for it any more.

    Raises:
        GivenUpError: It has not come back; it goes on, and what it returns is undone.
    """
    outcome = begin(do, undo)
    deadline = time.monotonic() + timeout
    is_shorter = False
    while not wait_for([outcome], timeout=min(_GLANCE, max(deadline - time.monotonic(), 0.0))).done:
        if cancelled.is_set() and not is_shorter:
            is_shorter, deadline = True, min(deadline, time.monotonic() + grace)
        if time.monotonic() >= deadline and outcome.cancel():  # else it has come back just now
            raise CallAbandonedError(
                "nobody waits for it any more" if cancelled.is_set() else f"no answer within {timeout:g} s"
            )
    return outcome.result()


def _call(do: Callable[[], T], outcome: Future[T], undo: Callable[[T], Any]) -> None:
    try:
        value = do()
    except BaseException as error:  # noqa: BLE001  handed to whoever waits
        if outcome.set_running_or_notify_cancel():
            outcome.set_exception(error)
        return
    if outcome.set_running_or_notify_cancel():
        outcome.set_result(value)
    else:
        undo(value)
