"""The nodes of a run, without any: names, failures, choices. Workers and scheduler answer when the test says so."""

import asyncio
import queue
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.events import NodeJoined, NodeLeft, NodesOpening, Tick
from prefect_parallel_run.dispatch.node_pool import Nodes
from prefect_parallel_run.dispatch.node_setup import RemoteSetup
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, InputError
from prefect_parallel_run.node.preflight import PreflightResult
from prefect_parallel_run.node.rpc import ShutdownReport, close_node, open_node, remove_node, take_bundle, view_node
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings

SETTINGS = NodeSettings(
    token="t",
    drive=1,
    slots=1,
    most_slots=1,
    interpreter=None,
    script="/s.py",
    source="/",
    arguments=(),
    output="",
    side_inputs={},
    environment_variables={},
    run_directory="/run",
    modules=(),
    fetches=False,
    keep_rows=True,
    row_format="text",
    row_header=False,
    logging_level="INFO",
    run_invocation_timeout=1.0,
    init_timeout=1.0,
    process_memory_limit=None,
)
SEES_ALL = PreflightResult(host="h", missing=(), shares=True, sees_script=True, has_bundle=True)


class Cluster:
    """A client of a scheduler that answers once per `say`, and of workers that open when the test says so."""

    status = "running"

    def __init__(self):
        self.there = []  # addresses
        self.answers = asyncio.Queue()  # of the scheduler
        self.openings = {}  # futures of what comes of them, by address
        self.views = {}  # by address; who is not in it sees all
        self.calls = queue.SimpleQueue()  # (address, function, arguments)
        self.warnings = []
        self.events = queue.SimpleQueue()
        self.loop = SimpleNamespace(asyncio_loop=asyncio.new_event_loop())
        self.loop.add_callback = lambda make: asyncio.run_coroutine_threadsafe(make(), self.loop.asyncio_loop)
        self.thread = threading.Thread(target=self.loop.asyncio_loop.run_forever)
        self.scheduler = SimpleNamespace(identity=self.identity)

    async def identity(self):
        return {"workers": {address: {"last_seen": 1.0, "host": "h", "name": address} for address in await self.answers.get()}}

    def say(self):
        """Have the scheduler answer, once, which workers there are."""
        self.loop.asyncio_loop.call_soon_threadsafe(self.answers.put_nowait, list(self.there))

    async def run(self, function, *arguments, workers, asynchronous):
        (address,) = workers
        self.calls.put((address, function, arguments))
        if function is view_node:
            return {address: self.views.get(address, SEES_ALL)}
        if function is open_node:
            name = await asyncio.wrap_future(self.openings[address])
            return {address: facts(name or arguments[0].node)}
        return {address: ShutdownReport([], []) if function is close_node else None}

    def join(self, *addresses):
        for address in addresses:
            self.there.append(address)
            self.openings[address] = Future()
        self.say()

    def leave(self, *addresses):
        for address in addresses:
            self.there.remove(address)
        self.say()

    def nodes(self, wanted=9, prepared=0, journey=None):
        observer = SimpleNamespace(node_joined=lambda facts: None, warned=self.warnings.append)
        return Nodes(self, SETTINGS, wanted, observer, lambda: None, lambda name: None, self.events.put, prepared, journey)

    def close(self):
        loop = self.loop.asyncio_loop

        async def end():
            rest = asyncio.all_tasks(loop) - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        self.thread.join()
        loop.close()


@pytest.fixture
def cluster():
    made = Cluster()
    made.thread.start()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """The scheduler is asked at every look."""
    monkeypatch.setattr("prefect_parallel_run.dispatch.node_pool._LOOK", 0.0)


def facts(node):
    return NodeFacts(node=node, host="h", pid=1, cores=1, slots=1)


def told(made, cluster, event):
    """Look, whenever something has happened, until *event* is told; return what else was told."""
    others = []
    made.look()
    while (next_ := cluster.events.get(timeout=30)) != event:
        others += [next_] if next_ != Tick() else []
        made.look()
    return others


def opened(made, cluster, answers):
    """Have workers join that answer with a name of their own, take what they are offered (None), or fail; return all names."""
    cluster.join(*answers)
    told(made, cluster, NodesOpening(len(answers)))
    for address, answer in answers.items():
        finish(cluster, address, answer)
    told(made, cluster, NodesOpening(0))
    return dict(made._names)


def finish(cluster, address, answer=None):
    if isinstance(answer, BaseException):
        cluster.openings[address].set_exception(answer)
    else:
        cluster.openings[address].set_result(answer)


def test_no_two_nodes_have_the_same_name(cluster):
    """Whoever had a name already, or could not say whether it took the one that it was offered."""
    made = cluster.nodes(prepared=2)
    opened(made, cluster, {"a": "node-0", "b": None, "c": "node-1", "d": None})
    assert len(set(opened(made, cluster, {"e": None}).values())) == 5


def test_a_name_that_may_have_been_taken_is_not_given_again(cluster):
    """Logs and parts have it in their names."""
    made = cluster.nodes()
    assert opened(made, cluster, {"a": OSError("gone"), "b": None}) == {"b": "node-1"}
    cluster.there.remove("a")
    assert opened(made, cluster, {"a": None}) == {"a": "node-2", "b": "node-1"}


def test_nodes_that_were_prepared_use_up_no_further_names(cluster):
    """So that their successors' numbers go on where theirs end."""
    made = cluster.nodes(prepared=2)
    opened(made, cluster, {"a": "node-0", "b": "node-1"})
    assert opened(made, cluster, {"c": None})["c"] == "node-2"


def test_names_go_by_the_order_in_which_workers_were_chosen(cluster):
    """Whichever opens first."""
    made = cluster.nodes()
    cluster.join("c", "a", "b")
    told(made, cluster, NodesOpening(3))
    for address, name in (("b", "node-1"), ("c", "node-2"), ("a", "node-0")):
        finish(cluster, address)
        told(made, cluster, NodeJoined(name, 1))
    assert made._names == {"a": "node-0", "b": "node-1", "c": "node-2"}


def test_one_that_takes_long_holds_up_nobody(cluster):
    """It counts as wanted meanwhile, and is used when it comes."""
    made = cluster.nodes(wanted=2)
    cluster.join("slow", "fast")
    told(made, cluster, NodesOpening(2))
    finish(cluster, "fast")
    told(made, cluster, NodeJoined("node-0", 1))
    cluster.join("more")
    told(made, cluster, NodesOpening(1))
    while "more" not in made._workers:
        assert cluster.events.get(timeout=30) == Tick()
        made.look()
    assert (made.addresses, made.opening) == (["fast"], 1)
    finish(cluster, "slow")
    told(made, cluster, NodeJoined("node-1", 1))
    assert cluster.warnings == []


def test_fewer_than_wanted_are_told_of_once(cluster):
    """Those that are being opened count as there."""
    made = cluster.nodes(wanted=4)
    opened(made, cluster, {"a": None, "b": None})
    opened(made, cluster, {"c": None})
    assert cluster.warnings == ["2 of 4 nodes are there; the step starts with them, and uses the other 2 when they come"]


def test_one_that_is_lost_while_it_is_opened_is_opened_elsewhere(cluster):
    """Its name may have been taken there."""
    made = cluster.nodes(wanted=1)
    cluster.join("a")
    told(made, cluster, NodesOpening(1))
    cluster.leave("a")
    assert told(made, cluster, NodesOpening(0)) == []
    assert cluster.warnings == []
    cluster.join("b")
    told(made, cluster, NodesOpening(1))
    finish(cluster, "b")
    assert told(made, cluster, NodeJoined("node-1", 1)) == []
    cluster.leave("b")
    told(made, cluster, NodeLeft("node-1"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (EnvironmentSetupError("with x", "no such package"), EnvironmentSetupError, "on the node b: no such package"),
        (ModuleNotFoundError("prefect_parallel_run"), ComputeTargetError, "install the version of the flow process there"),
        (ComputeTargetError("b", "No space left on device"), ComputeTargetError, "No space left"),
    ],
)
def test_one_of_the_first_that_cannot_be_used_ends_the_run(cluster, error, kind, words):
    """However long it takes to find out: an outcome must not depend on which of them was faster."""
    made = cluster.nodes()
    cluster.join("a", "b")
    told(made, cluster, NodesOpening(2))
    finish(cluster, "a")
    told(made, cluster, NodeJoined("node-0", 1))
    finish(cluster, "b", error)
    with pytest.raises(kind, match=words):
        told(made, cluster, NodesOpening(0))


def test_one_that_comes_late_and_is_of_no_use_is_left_alone(cluster):
    """With a warning; it costs the others nothing."""
    made = cluster.nodes()
    opened(made, cluster, {"a": None})
    cluster.warnings.clear()
    assert set(opened(made, cluster, {"b": EnvironmentSetupError("with x", "no such package")})) == {"a"}
    assert made._left_alone == {"b"}
    assert "no such package" in cluster.warnings[0]


def test_a_worker_that_is_deaf_is_tried_again_but_not_for_ever(cluster):
    """It may have been busy, or just about to go."""
    made = cluster.nodes()
    for times in range(1, 6):
        assert made._left_alone == set()
        opened(made, cluster, {"a": OSError("timed out")})
        assert made._tries["a"] == times
        cluster.there.remove("a")
    assert made._left_alone == {"a"}
    assert "it cannot be opened" in cluster.warnings[0]


def journey(folder, size):
    bundle = folder / "bundle.zip"
    bundle.write_bytes(bytes(size))
    return RemoteSetup(probe=SimpleNamespace(bundle="sha"), bundle=bundle, mark=folder / "mark")


def test_what_a_worker_lacks_is_given_to_it_first(cluster, tmp_path):
    """In order, each piece after the answer to the one before; then it is told its way."""
    cluster.views["a"] = PreflightResult(host="h", missing=(), shares=False, sees_script=False, has_bundle=False)
    made = cluster.nodes(journey=journey(tmp_path, (4 << 20) + 5))
    opened(made, cluster, {"a": None})
    calls = [cluster.calls.get_nowait() for _ in range(4)]
    assert [function for _, function, _ in calls] == [view_node, take_bundle, take_bundle, open_node]
    assert [(given[2], len(given[3]), given[4]) for _, _, given in calls[1:3]] == [(0, 4 << 20, False), (4 << 20, 5, True)]
    assert calls[3][2][1] == (True, True)
    assert made.with_rows_at_home == ["a"]


def test_what_a_worker_cannot_see_is_told_with_host_and_path(cluster, tmp_path):
    """And its name is free: it has never heard it."""
    cluster.views["b"] = PreflightResult(
        host="far", missing=(("input", "/data/f.txt"),), shares=True, sees_script=True, has_bundle=True
    )
    made = cluster.nodes(journey=journey(tmp_path, 5))
    cluster.join("b")
    with pytest.raises(InputError, match=r"/data/f.txt: the node b \(host far\) cannot see it"):
        told(made, cluster, NodesOpening(0))
    while not cluster.events.empty():  # what was told before the error, and nobody has taken
        cluster.events.get()
    cluster.there.remove("b")
    assert opened(made, cluster, {"a": None}) == {"a": "node-0"}


@pytest.mark.parametrize("how", ["stop", "close"])
def test_the_end_gives_up_what_is_being_opened(cluster, how):
    """Whoever builds there is told so, and is not waited for."""
    made = cluster.nodes()
    cluster.join("a", "b")
    told(made, cluster, NodesOpening(2))
    finish(cluster, "a")
    told(made, cluster, NodeJoined("node-0", 1))
    if how == "stop":
        made.stop(time.monotonic() + 30)
    else:
        made.close()
    made.remove(time.monotonic() + 30)
    assert made.opening == 0
    seen = []
    while not {("b", close_node), ("b", remove_node)} <= set(seen):
        address, function, _ = cluster.calls.get(timeout=30)
        seen.append((address, function))
