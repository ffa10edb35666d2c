"""What the dispatcher does by itself, between the state that decides and the cluster that works."""

import queue
from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.dispatcher import Dispatcher
from prefect_parallel_run.dispatch.messages import NodeJoined, Tick

SETTINGS = SimpleNamespace(token="t", run_directory="/run", is_kept=False)


class Told:
    """An observer that only listens, and a state that never waits for a moment."""

    next_due = None


def dispatcher():
    return Dispatcher(None, SETTINGS, None, None, Told(), Told(), None, None, wanted=1)


def test_what_comes_home_with_the_one_that_ends_the_run_is_not_lost():
    """It stays in the queue until its turn comes: whoever stops there finds it."""
    made = dispatcher()
    for node in ("a", "b", "c"):
        made._events.put(NodeJoined(node, 1))
    events = made._wait()
    assert next(events) == NodeJoined("a", 1)
    events.close()
    assert [made._events.get_nowait() for _ in range(2)] == [NodeJoined("b", 1), NodeJoined("c", 1)]
    with pytest.raises(queue.Empty):
        made._events.get_nowait()
    assert list(made._wait()) == [Tick()]
