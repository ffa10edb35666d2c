"""Cluster classes that do as they like: they hang, or hear of no cancelling."""

import sys
import threading
from concurrent.futures import Future

import pytest
from distributed import Client, Scheduler, SpecCluster, Status, Worker
from distributed.deploy.spec import ProcessInterface

from prefect_parallel_run.compute.base import Request, read_workers
from prefect_parallel_run.compute.cluster_class import ClassTarget, ManagedCluster, _scale
from prefect_parallel_run.errors import ComputeTargetError

from .conftest import wait_until

#: A scheduler whose dashboard does not use the default port of Dask, which only one program on a machine can bind.
QUIET = {
    "cls": Scheduler,
    "options": {"dashboard": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0},
}

MODULE = """
import threading

begun, gate, closed = threading.Event(), threading.Event(), threading.Event()

class Hangs:
    def __init__(self, **arguments):
        begun.set()
        assert gate.wait(300)

    def close(self):
        closed.set()
"""


@pytest.fixture
def hangs(tmp_path, monkeypatch):
    """The module of a cluster class whose constructor waits for `gate`."""
    (tmp_path / "clusters_that_hang.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    target = ClassTarget("clusters_that_hang.Hangs", {}, allow_insecure=True)
    return target, sys.modules.pop("clusters_that_hang")


def test_a_hanging_constructor_is_abandoned(hangs, monkeypatch, caplog):
    """The step ends with a warning; a cluster that opens later is closed."""
    monkeypatch.setattr("prefect_parallel_run.compute.cluster_class._GRACE", 0.0)
    target, module = hangs
    cancelled = threading.Event()
    threading.Thread(target=lambda: module.begun.wait(300) and cancelled.set()).start()
    request = Request(nodes=1, at_least=None, slots=1, timeout=1000.0)
    with (
        pytest.raises(ComputeTargetError, match="cannot open the cluster: cancelled"),
        target.open(request, cancelled, Future()),
    ):
        raise AssertionError("it was opened")
    assert "close the cluster manually" in caplog.text
    assert not module.closed.is_set()
    module.gate.set()
    assert module.closed.wait(300)


class Job(ProcessInterface):
    """A worker that a queue starts, unless it refuses."""

    refuses = False

    def __init__(self, scheduler, name):
        super().__init__(scheduler=scheduler, name=name)

    async def start(self):
        if Job.refuses:
            raise OSError("the queue is full")
        await super().start()


def test_refused_workers_are_requested_again(monkeypatch):
    """Otherwise the cluster would count workers that it could not start."""
    with SpecCluster(scheduler=QUIET, worker={"cls": Job, "options": {}}, workers={}, silence_logs=False) as cluster:
        _scale(cluster, 1)
        there = dict(cluster.workers)
        monkeypatch.setattr(Job, "refuses", True)
        for _ in range(2):
            with pytest.raises(OSError, match="the queue is full"):
                _scale(cluster, 3)
            assert cluster.workers == there
        monkeypatch.setattr(Job, "refuses", False)
        _scale(cluster, 3)
        assert len(cluster.workers) == 3
        assert there.items() <= cluster.workers.items()
        assert {worker.status for worker in cluster.workers.values()} == {Status.running}


class OnlyScales:
    """A cluster class that cannot choose which workers it stops."""

    def __init__(self, cluster):
        self._cluster, self.scaled = cluster, []

    def scale(self, count):
        self.scaled.append(count)
        self._cluster.scale(count)


def update_cache_late(client, monkeypatch):
    """Let Dask's periodic update of the client's cache, which names no workers, take place just before each answer is used."""
    sync = client.sync

    def sync_and_update(*args, **kwargs):
        answer = sync(*args, **kwargs)
        sync(client._update_scheduler_info)
        return answer

    monkeypatch.setattr(client, "sync", sync_and_update)


@pytest.mark.parametrize("chooses", [True, False], ids=["chooses", "only-scales"])
def test_only_released_workers_stop_whatever_dask_keeps_in_its_cache(chooses, monkeypatch):
    """Otherwise a release would stop no worker, or all of them."""
    worker = {"cls": Worker, "options": {"nthreads": 1, "dashboard": False, "dashboard_address": "127.0.0.1:0"}}
    workers = dict.fromkeys(("a", "b", "c"), worker)
    with (
        SpecCluster(scheduler=QUIET, worker=worker, workers=workers, silence_logs=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(3)
        released = next(address for address, about in read_workers(client).items() if about["name"] == "b")
        update_cache_late(client, monkeypatch)
        plain = OnlyScales(cluster)
        ManagedCluster(cluster if chooses else plain, client, 1, is_elastic=True).release([released])
        wait_until(lambda: len(client.nthreads()) == 2)
        assert set(cluster.workers) == {"a", "c"} if chooses else plain.scaled == [2]
