"""Growing while work waits, shrinking when nodes have nothing to do."""

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.elasticity import Elasticity
from prefect_parallel_run.policy.node_count import IDLE_SECONDS, NodeBounds, nodes_wanted

BOUNDS = NodeBounds(at_least=1, at_most=4)


@given(st.integers(0, 10**7), st.floats(0, 1e4), st.floats(0.1, 128), st.integers(1, 50), st.integers(0, 50))
def test_the_number_of_nodes_stays_within_its_bounds(backlog, seconds, slots, least, more):
    """Whatever the work is like."""
    bounds = NodeBounds(at_least=least, at_most=least + more)
    assert least <= nodes_wanted(bounds, backlog=backlog, seconds=seconds, slots=slots) <= least + more


def test_nodes_are_asked_for_once_and_given_back_when_idle():
    """From one to four and back to one."""
    asked = []
    elasticity = Elasticity(BOUNDS, asked.append)
    facts = {"seconds": 10.0, "slots": 1}
    assert elasticity.look(0.0, backlog=100, nodes=1, idle=[], **facts) == []
    assert elasticity.look(2.0, backlog=99, nodes=1, idle=[], **facts) == []
    assert asked == [4]
    facts["slots"] = 4
    assert elasticity.look(4.0, backlog=10, nodes=4, idle=[], **facts) == []
    everybody = ["a", "b", "c", "d"]
    assert elasticity.look(6.0, backlog=0, nodes=4, idle=everybody[:3], **facts) == []
    assert elasticity.look(7.0, backlog=0, nodes=4, idle=everybody[1:3], **facts) == []  # "a" had something to do again
    assert elasticity.look(6.0 + IDLE_SECONDS, backlog=0, nodes=4, idle=everybody, **facts) == ["b", "c"]
    facts["slots"] = 2
    assert elasticity.look(60.0, backlog=0, nodes=2, idle=["a", "d"], **facts) == ["a"]
    assert elasticity.look(90.0, backlog=0, nodes=1, idle=["d"], slots=1, seconds=10.0) == []
    assert elasticity.look(92.0, backlog=100, nodes=1, idle=[], slots=1, seconds=10.0) == []
    assert asked == [4, 4]


def test_nodes_that_were_lost_are_asked_for_again():
    """After a minute: most clusters replace them by themselves, a batch queue does not."""
    asked = []
    elasticity = Elasticity(NodeBounds(at_least=4, at_most=4), asked.append)
    facts = {"seconds": 10.0, "slots": 4, "idle": [], "backlog": 100}
    for now, nodes in ((0.0, 4), (50.0, 4), (60.0, 3), (105.0, 3), (115.0, 3), (130.0, 3), (200.0, 4), (210.0, 3)):
        assert elasticity.look(now, nodes=nodes, **facts) == []
    assert asked == [4]


def test_idle_nodes_stay_while_work_is_held_back():
    """It will be theirs."""
    elasticity = Elasticity(BOUNDS, lambda nodes: None)
    for now in (0.0, 100.0):
        assert elasticity.look(now, backlog=5, seconds=1.0, slots=2, nodes=2, idle=["a", "b"]) == []
