"""What the dispatcher does by itself, between the state that decides and the cluster that works."""

import queue

import pytest

from prefect_parallel_run.dispatch.dispatcher import Dispatcher
from prefect_parallel_run.dispatch.messages import NodeJoined, Tick
from prefect_parallel_run.node.settings import NodeFacts


class Told:
    """An observer that only listens, and a state that never waits for a moment."""

    next_due = None

    def node_joined(self, facts):
        pass


def dispatcher(prepared=0):
    return Dispatcher(None, None, None, None, Told(), Told(), None, None, None, prepared)


def facts(node):
    return NodeFacts(node=node, host="h", pid=1, cores=1, slots=1)


def opened(made, answers):
    """Open nodes that answer with a name of their own, or an error, or take what they are offered (None)."""
    made._call = lambda addresses, function, settings, names: {
        address: facts(names[address]) if answers[address] is None else answers[address] for address in addresses
    }
    made._open(list(answers))
    return dict(made._names)


def test_no_two_nodes_have_the_same_name():
    """Whoever had a name already, or could not say whether it took the one that it was offered."""
    made = dispatcher(prepared=2)
    names = opened(made, {"a": facts("node-0"), "b": None, "c": facts("node-1"), "d": None})
    names |= opened(made, {"e": None})
    assert len(set(names.values())) == 5

    made = dispatcher()
    names = opened(made, {"a": OSError("gone"), "b": None})
    assert set(names) == {"b"}
    names |= opened(made, {"a": None})
    assert names["a"] not in (names["b"], "node-0")


def test_nodes_that_were_prepared_use_up_no_further_names():
    """So that their successors' numbers go on where theirs end."""
    made = dispatcher(prepared=2)
    opened(made, {"a": facts("node-0"), "b": facts("node-1")})
    assert opened(made, {"c": None})["c"] == "node-2"


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
