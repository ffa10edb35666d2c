"""Calls that may hang: nobody waits longer than is worth while, and nothing that comes late is left behind."""

import threading

import pytest

from prefect_parallel_run.compute.bounded import CallAbandonedError, bounded


def test_what_comes_in_time_comes_as_it_is():
    """Value or error."""
    assert bounded(lambda: 7, 60) == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 / 0, 60)


@pytest.mark.parametrize("why", ["timeout", "cancelled"])
def test_what_comes_too_late_is_undone(why):
    """By whoever made it: the caller is gone."""
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
    words = "no answer within 0 s" if why == "timeout" else "nobody waits"
    with pytest.raises(CallAbandonedError, match=words):
        bounded(make, 0.0 if why == "timeout" else 1000.0, cancelled, undo=undo)
    gate.set()
    assert undone.wait(60)


def test_one_that_comes_back_when_it_is_told_is_waited_for():
    """For a moment: what it has to say is better than that it was not heard."""
    cancelled = threading.Event()
    cancelled.set()
    assert bounded(lambda: cancelled.wait(60) and "stopped", 1000.0, cancelled, grace=60.0) == "stopped"
