"""Work in a thread of its own: it starts when it is told to, and ends when nobody waits for it any more."""

import threading

import pytest

from prefect_parallel_run._threads import Background

_BOUND = 60  #: s, generous


def test_work_that_nobody_started_does_not_run():
    """It starts with ``start``, or with the first wait."""
    ran = []
    work = Background("work", lambda _: ran.append(1) or 7)
    assert ran == []
    assert work.wait(lambda: None) == 7
    assert Background("work", lambda _: 8).start().wait(lambda: None) == 8


def test_ctrl_c_while_the_thread_starts_ends_the_work(monkeypatch):
    """The thread may run already when ``start`` is interrupted."""
    start, ended = threading.Thread.start, threading.Event()

    def interrupted(self):
        start(self)
        raise KeyboardInterrupt

    def work(check_cancelled):
        try:
            while not ended.wait(0.01):
                check_cancelled()
        finally:
            ended.set()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Background("work", work).wait(lambda: None)
    assert ended.wait(_BOUND)


def test_an_error_of_the_heartbeat_ends_the_work():
    """And reaches whoever waits."""
    ended = threading.Event()

    def work(check_cancelled):
        try:
            while not ended.wait(0.01):
                check_cancelled()
        finally:
            ended.set()

    def refuse():
        raise LookupError

    with pytest.raises(LookupError):
        Background("work", work).wait(refuse)
    assert ended.wait(_BOUND)
