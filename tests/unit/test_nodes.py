"""The nodes of a run, without any: names, failures, choices."""

from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.nodes import Nodes
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError
from prefect_parallel_run.node.settings import NodeFacts

SETTINGS = SimpleNamespace(token="t", run_directory="/run", is_kept=False)


class Told:
    """An observer that only listens."""

    def __init__(self):
        self.warnings = []

    def node_joined(self, facts):
        pass

    def warned(self, text):
        self.warnings.append(text)


def nodes(prepared=0, observer=None):
    return Nodes(None, SETTINGS, 9, observer or Told(), None, None, lambda event: None, prepared)


def facts(node):
    return NodeFacts(node=node, host="h", pid=1, cores=1, slots=1)


def opened(made, answers):
    """Open nodes that answer with a name of their own, or an error, or take what they are offered (None)."""
    made.call = lambda addresses, function, settings, names, ways: {
        address: facts(names[address]) if answers[address] is None else answers[address] for address in addresses
    }
    made._open(list(answers))
    return dict(made._names)


def test_no_two_nodes_have_the_same_name():
    """Whoever had a name already, or could not say whether it took the one that it was offered."""
    made = nodes(prepared=2)
    names = opened(made, {"a": facts("node-0"), "b": None, "c": facts("node-1"), "d": None})
    names |= opened(made, {"e": None})
    assert len(set(names.values())) == 5

    made = nodes()
    names = opened(made, {"a": OSError("gone"), "b": None})
    assert set(names) == {"b"}
    names |= opened(made, {"a": None})
    assert names["a"] not in (names["b"], "node-0")


def test_nodes_that_were_prepared_use_up_no_further_names():
    """So that their successors' numbers go on where theirs end."""
    made = nodes(prepared=2)
    opened(made, {"a": facts("node-0"), "b": facts("node-1")})
    assert opened(made, {"c": None})["c"] == "node-2"


def test_a_node_that_cannot_be_used_ends_the_run_at_the_beginning_only():
    """A wrong set-up fails in seconds; one that comes late and is of no use costs the others nothing."""
    with pytest.raises(EnvironmentSetupError, match="on the node a: no such package"):
        opened(nodes(), {"a": EnvironmentSetupError("with x", "no such package")})
    with pytest.raises(ComputeTargetError, match="install the version of the flow process there"):
        opened(nodes(), {"a": ModuleNotFoundError("prefect_parallel_run")})
    told = Told()
    made = nodes(observer=told)
    opened(made, {"a": None})
    made._has_begun = True
    assert set(opened(made, {"b": EnvironmentSetupError("with x", "no such package")})) == {"a"}
    assert made._left_alone == {"b"}
    assert "no such package" in told.warnings[0]


def test_a_worker_that_is_deaf_is_tried_again_but_not_for_ever():
    """It may have been busy, or just about to go."""
    made = nodes(observer=(told := Told()))
    for _ in range(4):
        opened(made, {"a": OSError("timed out")})
    assert (made._left_alone, told.warnings) == (set(), [])
    opened(made, {"a": OSError("timed out")})
    assert made._left_alone == {"a"}
    assert "it cannot be opened" in told.warnings[0]
