"""What is told aside is told in order, holds nobody up, and is given up in time."""

import threading
from contextvars import ContextVar

from prefect_parallel_run.monitoring.background_publisher import BackgroundPublisher

VARIABLE = ContextVar("variable", default="unset")


class Gate:
    """A call that stands until it is let go."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(60)


def test_all_is_done_in_order_before_the_end():
    """And with the context of whoever made it."""
    done = []
    VARIABLE.set("set")
    aside = BackgroundPublisher("test", done.append)
    for number in range(5):
        aside.do(str(number), lambda number=number: done.append((number, VARIABLE.get())))
    assert aside.end(60)
    assert done == [(number, "set") for number in range(5)]


def test_of_a_kind_that_waits_only_the_newest_is_done():
    """In the place of the first: what came behind that still comes behind it."""
    done, gate = [], Gate()
    aside = BackgroundPublisher("test", done.append)
    aside.do("gate", gate)
    assert gate.begun.wait(60)
    for number in range(5):
        aside.do("progress", lambda number=number: done.append(number))
        aside.do("summary", lambda: done.append("summary"))
    gate.open.set()
    assert aside.end(60)
    assert done == [4, "summary"]


def test_what_goes_wrong_is_told_and_the_rest_is_done():
    told, done = [], []
    aside = BackgroundPublisher("test", told.append)
    aside.do("bad", lambda: 1 / 0)
    aside.do("good", lambda: done.append("good"))
    assert aside.end(60)
    assert (told, done) == (["ZeroDivisionError: division by zero"], ["good"])


def test_an_end_waits_no_longer_than_it_was_told():
    """Whoever cancels is not held up by a server that is away; what comes of the call then is nobody's concern."""
    told, gate = [], Gate()
    aside = BackgroundPublisher("test", told.append)

    def fail():
        gate()
        raise OSError

    aside.do("bad", fail)
    aside.do("never", lambda: told.append("never"))
    assert gate.begun.wait(60)
    assert not aside.end(0.0)
    gate.open.set()
    aside._thread.join(60)
    aside.do("late", lambda: told.append("late"))
    assert told == []


def test_nothing_to_do_is_no_thread():
    aside = BackgroundPublisher("test", print)
    assert aside.end(0.0)
    assert aside._thread is None
