"""Calls that may hang: nobody waits longer than is worth while, and nothing that comes late is left behind."""

import threading

import pytest

from prefect_parallel_run._threads import CallAbandonedError, call_with_timeout


def test_a_result_in_time_is_returned():
    """Value or error."""
    assert call_with_timeout(lambda: 7, 60) == 7
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(lambda: 1 / 0, 60)


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
def test_a_late_result_is_undone(why):
    """By the thread of the call: the caller has given up."""
    gate, cancelled, undone = threading.Event(), threading.Event(), threading.Event()
    made = []

    def make():
        assert gate.wait(60)
        made.append("cluster")
        return "cluster"

    def undo(value):
        assert value == "cluster"
        undone.set()

    if why == "cancelled":
        cancelled.set()
    words = "no answer within 0 s" if why == "timeout" else "cancelled"
    with pytest.raises(CallAbandonedError, match=words):
        call_with_timeout(make, 0.0 if why == "timeout" else 1000.0, cancelled, undo=undo)
    gate.set()
    assert undone.wait(60)


def test_a_cancelled_call_has_a_grace_period():
    """Its own error is better than "cancelled"."""
    cancelled = threading.Event()
    cancelled.set()
    assert call_with_timeout(lambda: cancelled.wait(60) and "stopped", 1000.0, cancelled, grace=60.0) == "stopped"
