"""The node pool with a simulated scheduler and simulated workers: names, failures, selection."""

import asyncio
import queue
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from prefect_parallel_run.dispatch.events import NodeLeft, NodeOpened, NodesOpening, Tick
from prefect_parallel_run.dispatch.node_pool import NodePool
from prefect_parallel_run.dispatch.node_setup import NodeSpec, RemoteSetup
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, InputError
from prefect_parallel_run.node.remote_setup import PreflightResult
from prefect_parallel_run.node.rpc import ShutdownReport, check_node, close_node, open_node, receive_bundle, remove_node
from prefect_parallel_run.node.settings import (
    InterpreterSettings,
    ItemSettings,
    NodeFacts,
    NodeOptions,
    NodeSettings,
    ProcessLimits,
    RowSettings,
    RunContext,
    ScriptSettings,
)
from prefect_parallel_run.runs.events import Warned

SETTINGS = NodeSettings(
    token="t",
    node=NodeOptions(slots=1, most_slots=1),
    run=RunContext(execution=1, directory="/run"),
    interpreter=InterpreterSettings(),
    script=ScriptSettings(path="/s.py", source="/", logging_level="INFO"),
    items=ItemSettings(),
    rows=RowSettings(keep=True, format="text"),
    limits=ProcessLimits(run_invocation_timeout=1.0, init_timeout=1.0),
)
SEES_ALL = PreflightResult(host="h", missing=(), shares=True, sees_script=True, has_bundle=True)


class Cluster:
    """A simulated client: the scheduler answers once per `say`, and workers open when the test says so."""

    status = "running"

    def __init__(self):
        self.there = []  # addresses
        self.answers = asyncio.Queue()  # lists of addresses that the scheduler reports
        self.openings = {}  # futures of the node names, by address
        self.shutdowns = {}  # futures of slow calls of shutdown(), by address
        self.views = {}  # preflight results by address; others can access everything
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
        """Make the scheduler report its workers once."""
        self.loop.asyncio_loop.call_soon_threadsafe(self.answers.put_nowait, list(self.there))

    async def run(self, function, *arguments, workers, asynchronous):
        (address,) = workers
        self.calls.put((address, function, arguments))
        if function is check_node:
            return {address: self.views.get(address, SEES_ALL)}
        if function is open_node:
            name = await asyncio.wrap_future(self.openings[address])
            return {address: facts(name or arguments[0].node.name)}
        if function is close_node and address in self.shutdowns:
            await asyncio.wrap_future(self.shutdowns[address])
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

    def emit(self, event):
        if isinstance(event, Warned):
            self.warnings.append(event.text)

    def nodes(self, wanted=9, prepared=0, remote_setup=None):
        cluster = SimpleNamespace(client=self, prepared=prepared, discard=lambda name: None)
        spec = NodeSpec(settings=SETTINGS, at_most=wanted, remote=remote_setup)
        return NodePool(cluster, spec, self.emit, lambda: None, self.events.put)

    def close(self):
        loop = self.loop.asyncio_loop

        async def end():
            rest = asyncio.all_tasks(loop) - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(300)
        loop.call_soon_threadsafe(loop.stop)
        self.thread.join()
        loop.close()


@pytest.fixture
def cluster():
    simulated = Cluster()
    simulated.thread.start()
    yield simulated
    simulated.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Query the scheduler at every poll."""
    monkeypatch.setattr("prefect_parallel_run.dispatch.workers._QUERY_INTERVAL", 0.0)


def facts(node):
    return NodeFacts(node=node, host="h", pid=1, cores=1, slots=1)


def poll_until(pool, cluster, event):
    """Poll until *event* is reported; return the events before it."""
    others = []
    pool.poll()
    while (next_ := cluster.events.get(timeout=300)) != event:
        others += [next_] if next_ != Tick() else []
        pool.poll()
    return others


def open_nodes(pool, cluster, answers):
    """Let workers join that answer with their own name, the offered name (None), or an error; return all names."""
    cluster.join(*answers)
    poll_until(pool, cluster, NodesOpening(len(answers)))
    for address, answer in answers.items():
        finish(cluster, address, answer)
    poll_until(pool, cluster, NodesOpening(0))
    return dict(pool._names)


def finish(cluster, address, answer=None):
    if isinstance(answer, BaseException):
        cluster.openings[address].set_exception(answer)
    else:
        cluster.openings[address].set_result(answer)


def test_node_names_are_unique(cluster):
    """Including nodes that already had a name, and those that may have adopted the offered one."""
    pool = cluster.nodes(prepared=2)
    open_nodes(pool, cluster, {"a": "node-0", "b": None, "c": "node-1", "d": None})
    assert len(set(open_nodes(pool, cluster, {"e": None}).values())) == 5


def test_a_name_that_may_be_in_use_is_not_offered_again(cluster):
    """File names of logs and parts contain it."""
    pool = cluster.nodes()
    assert open_nodes(pool, cluster, {"a": OSError("gone"), "b": None}) == {"b": "node-1"}
    cluster.there.remove("a")
    assert open_nodes(pool, cluster, {"a": None}) == {"a": "node-2", "b": "node-1"}


def test_prepared_nodes_consume_no_further_names(cluster):
    """So that the numbers of later nodes continue after theirs."""
    pool = cluster.nodes(prepared=2)
    open_nodes(pool, cluster, {"a": "node-0", "b": "node-1"})
    assert open_nodes(pool, cluster, {"c": None})["c"] == "node-2"


def test_names_follow_the_order_of_selection(cluster):
    """Regardless of which node opens first."""
    pool = cluster.nodes()
    cluster.join("c", "a", "b")
    poll_until(pool, cluster, NodesOpening(3))
    for address, name in (("b", "node-1"), ("c", "node-2"), ("a", "node-0")):
        finish(cluster, address)
        poll_until(pool, cluster, NodeOpened(name, 1))
    assert pool._names == {"a": "node-0", "b": "node-1", "c": "node-2"}


def test_a_slow_setup_does_not_delay_other_nodes(cluster):
    """It counts toward the wanted nodes, and is used once it is open."""
    pool = cluster.nodes(wanted=2)
    cluster.join("slow", "fast")
    poll_until(pool, cluster, NodesOpening(2))
    finish(cluster, "fast")
    poll_until(pool, cluster, NodeOpened("node-0", 1))
    cluster.join("more")
    poll_until(pool, cluster, NodesOpening(1))
    while "more" not in pool._workers.info:
        assert cluster.events.get(timeout=300) == Tick()
        pool.poll()
    assert (pool.addresses, len(pool._setups)) == (["fast"], 1)
    finish(cluster, "slow")
    poll_until(pool, cluster, NodeOpened("node-1", 1))
    assert cluster.warnings == []


def test_missing_nodes_are_reported_once(cluster):
    """Nodes that are being opened count as available."""
    pool = cluster.nodes(wanted=4)
    open_nodes(pool, cluster, {"a": None, "b": None})
    open_nodes(pool, cluster, {"c": None})
    assert cluster.warnings == ["starting with 2 of 4 nodes; the rest join when they are available"]


def test_a_worker_lost_during_setup_is_replaced(cluster):
    """Its name is not offered again, since the lost node may have adopted it."""
    pool = cluster.nodes(wanted=1)
    cluster.join("a")
    poll_until(pool, cluster, NodesOpening(1))
    cluster.leave("a")
    assert poll_until(pool, cluster, NodesOpening(0)) == []
    assert cluster.warnings == []
    cluster.join("b")
    poll_until(pool, cluster, NodesOpening(1))
    finish(cluster, "b")
    assert poll_until(pool, cluster, NodeOpened("node-1", 1)) == []
    cluster.leave("b")
    poll_until(pool, cluster, NodeLeft("node-1"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (EnvironmentSetupError("with x", "no such package"), EnvironmentSetupError, "on node b: no such package"),
        (ModuleNotFoundError("prefect_parallel_run"), ComputeTargetError, "install the flow process's version there"),
        (ComputeTargetError("b", "No space left on device"), ComputeTargetError, "No space left"),
    ],
)
def test_an_unusable_first_worker_ends_the_run(cluster, error, kind, words):
    """However late it fails: the outcome must not depend on which node was faster."""
    pool = cluster.nodes()
    cluster.join("a", "b")
    poll_until(pool, cluster, NodesOpening(2))
    finish(cluster, "a")
    poll_until(pool, cluster, NodeOpened("node-0", 1))
    finish(cluster, "b", error)
    with pytest.raises(kind, match=words):
        poll_until(pool, cluster, NodesOpening(0))


def test_an_unusable_later_worker_is_excluded(cluster):
    """With a warning; the other nodes are not affected."""
    pool = cluster.nodes()
    open_nodes(pool, cluster, {"a": None})
    cluster.warnings.clear()
    assert set(open_nodes(pool, cluster, {"b": EnvironmentSetupError("with x", "no such package")})) == {"a"}
    assert pool._excluded == {"b"}
    assert "no such package" in cluster.warnings[0]


def test_an_unresponsive_worker_is_retried_a_few_times(cluster):
    """It may have been busy, or about to leave."""
    pool = cluster.nodes()
    for times in range(1, 6):
        assert pool._excluded == set()
        open_nodes(pool, cluster, {"a": OSError("timed out")})
        assert pool._attempts["a"] == times
        cluster.there.remove("a")
    assert pool._excluded == {"a"}
    assert "cannot open a node there" in cluster.warnings[0]


def remote_setup(folder, size):
    bundle = folder / "bundle.zip"
    bundle.write_bytes(bytes(size))
    return RemoteSetup(preflight=SimpleNamespace(bundle="sha"), bundle=bundle, mark=folder / "mark")


def test_a_worker_without_the_code_receives_it_first(cluster, tmp_path):
    """In order, each piece after the answer to the previous one; then the node is opened."""
    cluster.views["a"] = PreflightResult(host="h", missing=(), shares=False, sees_script=False, has_bundle=False)
    pool = cluster.nodes(remote_setup=remote_setup(tmp_path, (4 << 20) + 5))
    open_nodes(pool, cluster, {"a": None})
    calls = [cluster.calls.get_nowait() for _ in range(4)]
    assert [function for _, function, _ in calls] == [check_node, receive_bundle, receive_bundle, open_node]
    assert [(given[2], len(given[3]), given[4]) for _, _, given in calls[1:3]] == [(0, 4 << 20, False), (4 << 20, 5, True)]
    assert calls[3][2][1] == (True, True)
    assert pool.keeping_rows == ["a"]


def test_an_inaccessible_path_is_reported_with_its_host(cluster, tmp_path):
    """The name is free again: the worker never received it."""
    cluster.views["b"] = PreflightResult(
        host="far", missing=(("input", "/data/f.txt"),), shares=True, sees_script=True, has_bundle=True
    )
    pool = cluster.nodes(remote_setup=remote_setup(tmp_path, 5))
    cluster.join("b")
    with pytest.raises(InputError, match=r"/data/f.txt: node b \(host far\) cannot access it"):
        poll_until(pool, cluster, NodesOpening(0))
    while not cluster.events.empty():  # events from before the error
        cluster.events.get()
    cluster.there.remove("b")
    poll_until(pool, cluster, NodesOpening(0))  # else the next worker may be there before, and the number the same
    assert open_nodes(pool, cluster, {"a": None}) == {"a": "node-0"}


@pytest.mark.parametrize("how", ["stop", "close"])
def test_the_end_of_a_run_cancels_setups(cluster, how):
    """Workers that are building an environment are closed without waiting for them."""
    pool = cluster.nodes()
    cluster.join("a", "b")
    poll_until(pool, cluster, NodesOpening(2))
    finish(cluster, "a")
    poll_until(pool, cluster, NodeOpened("node-0", 1))
    if how == "stop":
        pool.stop(time.monotonic() + 30)
    else:
        pool.close()
    pool.remove(time.monotonic() + 30)
    assert len(pool._setups) == 0
    seen = []
    while not {("b", close_node), ("b", remove_node)} <= set(seen):
        address, function, _ = cluster.calls.get(timeout=300)
        seen.append((address, function))


def released(pool):
    """What ``pop_released`` returns and has passed on, once it returns something."""
    fetched, ended = [], []
    while not ended:
        ended = pool.pop_released(fetched.extend)
    assert fetched == ended
    return ended


def test_a_slow_shutdown_delays_nothing_but_its_node(cluster):
    """The node is closed once it has ended; meanwhile its worker is not opened again."""
    pool = cluster.nodes()
    open_nodes(pool, cluster, {"a": None, "b": None})
    cluster.shutdowns = {"a": Future()}
    pool.release(["node-0"])
    cluster.say()
    pool.poll()
    assert pool.pop_released(pytest.fail) == []
    assert pool._names == {"a": "node-0", "b": "node-1"}
    pool.release(["node-1"])
    assert released(pool) == ["b"]
    cluster.shutdowns["a"].set_result(None)
    assert released(pool) == ["a"]
    assert pool.nodes == pool._names == {}
    cluster.join("c")
    poll_until(pool, cluster, NodesOpening(1))  # only the new worker


def test_a_worker_that_is_lost_during_its_release_is_released(cluster):
    """Not reported as a lost node: nothing ran there."""
    pool = cluster.nodes()
    open_nodes(pool, cluster, {"a": None, "b": None})
    cluster.shutdowns = {"a": Future()}
    pool.release(["node-0"])
    cluster.leave("a")
    while not (ended := pool.pop_released(lambda _: None)):
        pool.poll()
    assert ended == ["a"]
    assert all(event == Tick() for event in iter_events(cluster))


def iter_events(cluster):
    while not cluster.events.empty():
        yield cluster.events.get()


def test_the_end_of_a_run_waits_for_released_nodes(cluster):
    """Each runs shutdown() once."""
    pool = cluster.nodes()
    open_nodes(pool, cluster, {"a": None, "b": None})
    cluster.shutdowns = {"a": Future()}
    pool.release(["node-0"])
    closing = threading.Thread(target=pool.close)
    closing.start()
    calls = []
    while {("a", close_node), ("b", close_node)} - set(calls):
        calls.append(cluster.calls.get(timeout=300)[:2])
    assert closing.is_alive()
    cluster.shutdowns["a"].set_result(None)
    closing.join(300)
    assert not closing.is_alive()
    assert calls.count(("a", close_node)) == 1
    assert cluster.calls.empty()
