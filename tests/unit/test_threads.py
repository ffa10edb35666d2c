"""Background work: it starts on request and stops when its result is no longer needed."""

import threading

import pytest

from prefect_parallel_run._threads import Background

_BOUND = 60  #: s, generous


def until_cancelled(ended):
    """Return work that runs until it is cancelled, and then sets *ended*."""

    def work(check_cancelled):
        try:
            while not ended.wait(0.01):
                check_cancelled()
        finally:
            ended.set()

    return work


def test_work_starts_with_start_or_the_first_wait():
    """Not when it is created."""
    ran = []
    work = Background("work", lambda _: ran.append(1) or 7)
    assert ran == []
    assert work.wait(lambda: None) == 7
    assert Background("work", lambda _: 8).start().wait(lambda: None) == 8


def test_ctrl_c_while_the_thread_starts_stops_the_work(monkeypatch):
    """The thread may already be running when ``start`` is interrupted."""
    start, ended = threading.Thread.start, threading.Event()

    def interrupted(self):
        start(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Background("work", until_cancelled(ended)).wait(lambda: None)
    assert ended.wait(_BOUND)


def test_an_error_of_check_cancelled_stops_the_work():
    """The waiting thread gets the error."""
    ended = threading.Event()

    def refuse():
        raise LookupError

    with pytest.raises(LookupError):
        Background("work", until_cancelled(ended)).wait(refuse)
    assert ended.wait(_BOUND)


def test_a_call_that_the_work_waits_for_is_interrupted(monkeypatch):
    """More than once: the first time may be too early."""
    monkeypatch.setattr("prefect_parallel_run._threads._STOP_TIMEOUT", _BOUND)
    interrupts, ended = threading.Semaphore(0), threading.Event()

    def work(_):
        for _ in range(3):
            interrupts.acquire()
        ended.set()

    waiting = Background("work", work, interrupts.release).start()
    waiting.stop()
    assert ended.is_set()
