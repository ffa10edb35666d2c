"""Calls of the background publisher run in order, never delay the caller, and are abandoned in time."""

import threading
from contextvars import ContextVar

from prefect_parallel_run.monitoring.artifacts import BackgroundPublisher

VARIABLE = ContextVar("variable", default="unset")


class Gate:
    """A call that blocks until it is opened."""

    def __init__(self):
        self.started, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.started.set()
        assert self.open.wait(60)


def test_all_calls_run_in_order_before_close_returns():
    """And with the context variables of the creator."""
    done = []
    VARIABLE.set("set")
    publisher = BackgroundPublisher("test", done.append)
    for number in range(5):
        publisher.submit(str(number), lambda number=number: done.append((number, VARIABLE.get())))
    assert publisher.close(60)
    assert done == [(number, "set") for number in range(5)]


def test_newer_call_replaces_a_waiting_one_of_its_kind():
    """In the position of the first: calls queued after it still run after it."""
    done, gate = [], Gate()
    publisher = BackgroundPublisher("test", done.append)
    publisher.submit("gate", gate)
    assert gate.started.wait(60)
    for number in range(5):
        publisher.submit("progress", lambda number=number: done.append(number))
        publisher.submit("summary", lambda: done.append("summary"))
    gate.open.set()
    assert publisher.close(60)
    assert done == [4, "summary"]


def test_failed_call_is_reported_and_later_calls_run():
    warnings, done = [], []
    publisher = BackgroundPublisher("test", warnings.append)
    publisher.submit("bad", lambda: 1 / 0)
    publisher.submit("good", lambda: done.append("good"))
    assert publisher.close(60)
    assert (warnings, done) == (["ZeroDivisionError: division by zero"], ["good"])


def test_close_returns_after_its_timeout():
    """An unreachable server does not delay a cancellation; the result of an abandoned call is ignored."""
    warnings, gate = [], Gate()
    publisher = BackgroundPublisher("test", warnings.append)

    def fail():
        gate()
        raise OSError

    publisher.submit("bad", fail)
    publisher.submit("never", lambda: warnings.append("never"))
    assert gate.started.wait(60)
    assert not publisher.close(0.0)
    gate.open.set()
    publisher._thread.join(60)
    publisher.submit("late", lambda: warnings.append("late"))
    assert warnings == []


def test_publisher_without_calls_starts_no_thread():
    publisher = BackgroundPublisher("test", print)
    assert publisher.close(0.0)
    assert publisher._thread is None
