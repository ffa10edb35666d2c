"""The autoscaler requests nodes while work waits and releases idle ones."""

from collections import deque
from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.autoscaler import IDLE_SECONDS, UNNEEDED_SECONDS, Autoscaler, NodeBounds, nodes_wanted
from prefect_parallel_run.dispatch.state import Demand

BOUNDS = NodeBounds(at_least=1, at_most=4)


def in_this_thread(do):
    """Run a function in this thread."""
    answer = Future()
    try:
        answer.set_result(do())
    except (OSError, RuntimeError) as error:
        answer.set_exception(error)
    return answer


def elastic(bounds, scale=lambda nodes: None, release=lambda workers: None, warned=print, begin=in_this_thread):
    """Return the autoscaler of a cluster that answers immediately."""
    return Autoscaler(bounds, scale, release, warned, begin)


@given(st.integers(0, 10**7), st.floats(0, 1e4), st.floats(0.1, 128), st.integers(1, 50), st.integers(0, 50))
def test_the_number_of_nodes_stays_within_its_bounds(backlog, seconds, slots, least, more):
    """For any backlog and duration."""
    bounds = NodeBounds(at_least=least, at_most=least + more)
    assert least <= nodes_wanted(bounds, Demand(backlog=backlog, seconds=seconds, slots=slots, nodes=1)) <= least + more


@given(st.floats(0.01, 1e4), st.floats(0.01, 100), st.integers(1, 64))
def test_a_paced_backlog_gets_exactly_the_nodes_that_its_pace_needs(seconds, per_second, slots):
    """Two per second of 60 s each keep 120 slots busy, for any duration."""
    bounds = NodeBounds(at_least=0, at_most=10**9)
    wanted = nodes_wanted(bounds, Demand(backlog=10**9, seconds=seconds, per_second=per_second, slots=slots, nodes=1))
    busy = seconds * per_second
    assert (wanted - 1) * slots < busy * (1 + 1e-9)
    assert wanted * slots >= busy * (1 - 1e-9)


def test_a_paced_run_of_unknown_duration_stays_small():
    """Its backlog does not justify nodes by itself: the first mini-batches show how long they take."""
    demand = Demand(backlog=10**6, seconds=float("inf"), per_second=10.0, slots=4, nodes=1)
    assert nodes_wanted(NodeBounds(at_least=1, at_most=1000), demand) == 3


def test_nodes_are_requested_once_and_released_when_idle():
    """From one to four and back to one."""
    asked = []
    autoscaler = elastic(BOUNDS, asked.append)
    facts = {"seconds": 10.0, "slots": 1}
    assert autoscaler.step(0.0, Demand(backlog=100, nodes=1, idle=[], **facts)) == []
    assert autoscaler.step(2.0, Demand(backlog=99, nodes=1, idle=[], **facts)) == []
    assert asked == [4]
    facts["slots"] = 4
    assert autoscaler.step(4.0, Demand(backlog=10, nodes=4, idle=[], **facts)) == []
    everybody = ["a", "b", "c", "d"]
    assert autoscaler.step(6.0, Demand(backlog=0, nodes=4, idle=everybody[:3], **facts)) == []
    assert autoscaler.step(7.0, Demand(backlog=0, nodes=4, idle=everybody[1:3], **facts)) == []  # "a" was busy again
    assert autoscaler.step(6.0 + IDLE_SECONDS, Demand(backlog=0, nodes=4, idle=everybody, **facts)) == ["b", "c"]
    facts["slots"] = 2
    assert autoscaler.step(60.0, Demand(backlog=0, nodes=2, idle=["a", "d"], **facts)) == ["a"]
    assert autoscaler.step(90.0, Demand(backlog=0, nodes=1, idle=["d"], slots=1, seconds=10.0)) == []
    assert autoscaler.step(92.0, Demand(backlog=100, nodes=1, idle=[], slots=1, seconds=10.0)) == []
    assert asked == [4, 4]


def test_lost_nodes_are_requested_again():
    """After a minute: most clusters replace them by themselves, a batch queue does not."""
    asked = []
    autoscaler = elastic(NodeBounds(at_least=4, at_most=4), asked.append)
    facts = {"seconds": 10.0, "slots": 4, "idle": [], "backlog": 100}
    for now, nodes in ((0.0, 4), (50.0, 4), (60.0, 3), (105.0, 3), (115.0, 3), (130.0, 3), (200.0, 4), (210.0, 3)):
        assert autoscaler.step(now, Demand(nodes=nodes, **facts)) == []
    assert asked == [4]


def test_idle_nodes_are_kept_while_mini_batches_are_held_back():
    """They will run these mini-batches."""
    autoscaler = elastic(BOUNDS)
    for now in (0.0, 100.0):
        assert autoscaler.step(now, Demand(backlog=5, seconds=1.0, slots=2, nodes=2, idle=["a", "b"])) == []


def paced(seconds, nodes, backlog=10**6):
    """Return the demand of a run whose nodes are all idle, with one process each and one mini-batch per second."""
    idle = tuple(f"n{number}" for number in range(nodes))
    return Demand(backlog=backlog, seconds=seconds, per_second=1.0, slots=nodes, nodes=nodes, idle=idle)


def test_a_paced_run_releases_the_nodes_that_its_rate_does_not_need():
    """Once they have been idle for a while, and not needed for longer."""
    autoscaler = elastic(NodeBounds(at_least=1, at_most=50))
    assert autoscaler.step(0.0, paced(40.0, 40)) == []
    for now in range(1, int(UNNEEDED_SECONDS)):
        assert autoscaler.step(float(now), paced(10.0, 40)) == []
    assert autoscaler.step(UNNEEDED_SECONDS, paced(10.0, 40)) == [f"n{number}" for number in range(30)]
    assert autoscaler.step(UNNEEDED_SECONDS + 60, paced(10.0, 10)) == []


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 50)), max_size=6), st.integers(1, 99))
def test_a_paced_run_does_not_oscillate(durations, backlog):
    """However durations vary, and near the end of the run, no node is released that was needed in the minutes before."""
    asked, needed, now, nodes = [], deque(maxlen=int(UNNEEDED_SECONDS)), 0.0, 50
    autoscaler = elastic(NodeBounds(at_least=1, at_most=50), asked.append)
    for seconds in (seconds for steps, seconds in durations for _ in range(steps)):
        now += 1
        needed.append(seconds)  # as many nodes
        released = autoscaler.step(now, paced(float(seconds), nodes, backlog))
        nodes = max(nodes - len(released), *asked, 0)
        assert not released or (nodes >= max(needed) and not asked)
        asked.clear()


def test_nodes_that_are_being_opened_are_not_requested_again():
    """Building an environment takes time; only open nodes count in the number of slots."""
    asked = []
    autoscaler = elastic(NodeBounds(at_least=4, at_most=4), asked.append)
    facts = {"seconds": 10.0, "idle": [], "backlog": 100}
    for now, nodes, opening in ((0.0, 0, 4), (100.0, 0, 4), (101.0, 1, 3), (300.0, 1, 3), (301.0, 4, 0), (302.0, 1, 0)):
        assert autoscaler.step(now, Demand(nodes=nodes, opening=opening, slots=nodes, **facts)) == []
    assert asked == []
    autoscaler.step(400.0, Demand(nodes=1, opening=0, slots=1, **facts))
    assert asked == [4]


def test_a_failed_request_is_repeated_later():
    """With one warning per cause; different numbers in the message (a job, a second) do not make another cause."""
    refusals = [OSError("queue full, job 17"), OSError("queue full, job 18"), RuntimeError("the API is down")]
    asked, warnings = [], []

    def scale(nodes):
        asked.append(nodes)
        if refusals:
            raise refusals.pop(0)

    autoscaler = elastic(BOUNDS, scale, warned=warnings.append)
    facts = {"seconds": 10.0, "slots": 1, "nodes": 1, "idle": [], "backlog": 100}
    for now in (0.0, 2.0, 29.0, 31.0, 62.0, 63.0, 93.0, 95.0):
        assert autoscaler.step(now, Demand(**facts)) == []
    assert asked == [4, 4, 4, 4]
    assert [warning.partition(";")[0] for warning in warnings] == [
        "the cluster could not start nodes: OSError: queue full, job 17",
        "the cluster could not start nodes: RuntimeError: the API is down",
    ]


def test_workers_that_cannot_be_stopped_now_are_stopped_later():
    """All of them, once the cluster accepts the request."""
    refusals = [OSError("no")]
    ended, warnings = [], []

    def release(workers):
        if refusals:
            raise refusals.pop()
        ended.append(list(workers))

    autoscaler = elastic(BOUNDS, release=release, warned=warnings.append)
    facts = {"backlog": 0, "seconds": 1.0, "slots": 2, "nodes": 2, "idle": []}
    autoscaler.step(0.0, Demand(**facts))
    autoscaler.release(["a"])
    autoscaler.step(2.0, Demand(**facts))
    autoscaler.release(["b"])
    autoscaler.step(4.0, Demand(**facts))
    assert ended == []
    autoscaler.step(33.0, Demand(**facts))
    autoscaler.step(64.0, Demand(**facts))
    assert ended == [["a", "b"]]
    assert len(warnings) == 1


def test_the_first_node_is_considered_immediately():
    """Durations are unknown then, which counts one mini-batch per slot; a second later all may be leased."""
    asked = []
    autoscaler = elastic(BOUNDS, asked.append)
    facts = {"backlog": 100, "seconds": float("inf"), "idle": []}
    assert autoscaler.step(0.0, Demand(nodes=0, slots=0, opening=1, **facts)) == []
    assert asked == []
    assert autoscaler.step(0.3, Demand(nodes=1, slots=1, **facts)) == []
    assert asked == [4]


def test_a_slow_cluster_delays_nothing():
    """It gets one request at a time; the number of requested nodes changes once it has answered."""
    answers = []

    def begin(do):
        do()
        answers.append(Future())
        return answers[-1]

    asked, ended = [], []
    autoscaler = elastic(BOUNDS, asked.append, ended.append, begin=begin)
    facts = {"seconds": 10.0, "slots": 1, "nodes": 1, "idle": [], "backlog": 100}
    autoscaler.step(0.0, Demand(**facts))
    autoscaler.release(["a"])
    autoscaler.step(100.0, Demand(**facts))
    assert (asked, ended) == ([4], [])
    answers[0].set_result(None)
    autoscaler.step(102.0, Demand(**facts))
    autoscaler.step(104.0, Demand(**facts))
    assert (asked, ended) == ([4], [("a",)])
