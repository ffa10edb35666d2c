"""Growing while work waits, shrinking when nodes have nothing to do."""

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.autoscaler import Autoscaler
from prefect_parallel_run.dispatch.node_count import IDLE_SECONDS, NodeBounds, nodes_wanted

BOUNDS = NodeBounds(at_least=1, at_most=4)


def at_once(do):
    """Do something here and now."""
    answer = Future()
    try:
        answer.set_result(do())
    except (OSError, RuntimeError) as error:
        answer.set_exception(error)
    return answer


def elastic(bounds, scale=lambda nodes: None, release=lambda workers: None, warned=print, begin=at_once):
    """Elasticity of a cluster that answers at once."""
    return Autoscaler(bounds, scale, release, warned, begin)


@given(st.integers(0, 10**7), st.floats(0, 1e4), st.floats(0.1, 128), st.integers(1, 50), st.integers(0, 50))
def test_the_number_of_nodes_stays_within_its_bounds(backlog, seconds, slots, least, more):
    """Whatever the work is like."""
    bounds = NodeBounds(at_least=least, at_most=least + more)
    assert least <= nodes_wanted(bounds, backlog=backlog, seconds=seconds, slots=slots) <= least + more


def test_nodes_are_asked_for_once_and_given_back_when_idle():
    """From one to four and back to one."""
    asked = []
    elasticity = elastic(BOUNDS, asked.append)
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
    elasticity = elastic(NodeBounds(at_least=4, at_most=4), asked.append)
    facts = {"seconds": 10.0, "slots": 4, "idle": [], "backlog": 100}
    for now, nodes in ((0.0, 4), (50.0, 4), (60.0, 3), (105.0, 3), (115.0, 3), (130.0, 3), (200.0, 4), (210.0, 3)):
        assert elasticity.look(now, nodes=nodes, **facts) == []
    assert asked == [4]


def test_idle_nodes_stay_while_work_is_held_back():
    """It will be theirs."""
    elasticity = elastic(BOUNDS)
    for now in (0.0, 100.0):
        assert elasticity.look(now, backlog=5, seconds=1.0, slots=2, nodes=2, idle=["a", "b"]) == []


def test_nodes_that_are_being_opened_are_not_asked_for_again():
    """They may take as long as their environment is built; those that are open count for how many are worth it."""
    asked = []
    elasticity = elastic(NodeBounds(at_least=4, at_most=4), asked.append)
    facts = {"seconds": 10.0, "idle": [], "backlog": 100}
    for now, nodes, opening in ((0.0, 0, 4), (100.0, 0, 4), (101.0, 1, 3), (300.0, 1, 3), (301.0, 4, 0), (302.0, 1, 0)):
        assert elasticity.look(now, nodes=nodes, opening=opening, slots=nodes, **facts) == []
    assert asked == []
    elasticity.look(400.0, nodes=1, opening=0, slots=1, **facts)
    assert asked == [4]


def test_a_cluster_that_refuses_is_asked_again_later():
    """With one warning per cause; numbers in its words, of a job or a second, make no other cause."""
    refusals = [OSError("queue full, job 17"), OSError("queue full, job 18"), RuntimeError("the API is down")]
    asked, warnings = [], []

    def scale(nodes):
        asked.append(nodes)
        if refusals:
            raise refusals.pop(0)

    elasticity = elastic(BOUNDS, scale, warned=warnings.append)
    facts = {"seconds": 10.0, "slots": 1, "nodes": 1, "idle": [], "backlog": 100}
    for now in (0.0, 2.0, 29.0, 31.0, 62.0, 63.0, 93.0, 95.0):
        assert elasticity.look(now, **facts) == []
    assert asked == [4, 4, 4, 4]
    assert [warning.partition(";")[0] for warning in warnings] == [
        "the cluster was asked for more nodes, and refuses: OSError: queue full, job 17",
        "the cluster was asked for more nodes, and refuses: RuntimeError: the API is down",
    ]


def test_workers_that_cannot_be_ended_now_are_ended_later():
    """All of them, once the cluster hears."""
    refusals = [OSError("no")]
    ended, warnings = [], []

    def release(workers):
        if refusals:
            raise refusals.pop()
        ended.append(list(workers))

    elasticity = elastic(BOUNDS, release=release, warned=warnings.append)
    facts = {"backlog": 0, "seconds": 1.0, "slots": 2, "nodes": 2, "idle": []}
    elasticity.look(0.0, **facts)
    elasticity.release(["a"])
    elasticity.look(2.0, **facts)
    elasticity.release(["b"])
    elasticity.look(4.0, **facts)
    assert ended == []
    elasticity.look(33.0, **facts)
    elasticity.look(64.0, **facts)
    assert ended == [["a", "b"]]
    assert len(warnings) == 1


def test_the_first_node_is_looked_at_as_soon_as_it_is_there():
    """How long a mini-batch takes is not known then, and every slot is worth one; a second later all may be handed out."""
    asked = []
    elasticity = elastic(BOUNDS, asked.append)
    facts = {"backlog": 100, "seconds": float("inf"), "idle": []}
    assert elasticity.look(0.0, nodes=0, slots=0, opening=1, **facts) == []
    assert asked == []
    assert elasticity.look(0.3, nodes=1, slots=1, **facts) == []
    assert asked == [4]


def test_a_cluster_that_takes_its_time_holds_up_nobody():
    """It is asked one thing at a time; what was asked for is known once it has answered."""
    answers = []

    def begin(do):
        do()
        answers.append(Future())
        return answers[-1]

    asked, ended = [], []
    elasticity = elastic(BOUNDS, asked.append, ended.append, begin=begin)
    facts = {"seconds": 10.0, "slots": 1, "nodes": 1, "idle": [], "backlog": 100}
    elasticity.look(0.0, **facts)
    elasticity.release(["a"])
    elasticity.look(100.0, **facts)
    assert (asked, ended) == ([4], [])
    answers[0].set_result(None)
    elasticity.look(102.0, **facts)
    elasticity.look(104.0, **facts)
    assert (asked, ended) == ([4], [("a",)])
