"""The local cluster: its nodes may start their children before they have joined it."""

import os
import signal
import threading
from concurrent.futures import Future

import psutil

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.local import LocalTarget

from .conftest import wait_until


def request(nodes, slots):
    return Request(nodes=nodes, at_least=None, slots=slots, timeout=120)


def begun(bench):
    """Processes in which init() has been called."""
    lines = bench.log.read_text().splitlines() if bench.log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("init ")]


def test_children_start_while_the_cluster_opens(bench):
    """Where the settings are known by then; and a run that never opens its nodes leaves no process behind."""
    settings = Future()
    settings.set_result(bench.settings("counts.py", "--log", str(bench.log), slots=2, most_slots=2))
    with LocalTarget().open(request(2, 2), threading.Event(), settings) as cluster:
        assert cluster.prepared == 2
        wait_until(lambda: len(begun(bench)) == 4)
    assert len(set(begun(bench))) == 4
    wait_until(lambda: not any(psutil.pid_exists(process) for process in begun(bench)))


def test_a_cluster_without_settings_opens_all_the_same(bench):
    """They may come later than it is open."""
    with LocalTarget().open(request(1, 2), threading.Event(), Future()) as cluster:
        assert (cluster.prepared, cluster.slots) == (0, 2)
        assert len(cluster.client.nthreads()) == 1
    assert begun(bench) == []


def test_a_worker_that_dies_while_it_is_told_the_settings_is_replaced(bench):
    """Whether the successor has been started already or not; and the cluster can be closed."""
    with LocalTarget().open(request(1, 1), threading.Event(), Future()) as cluster:
        for _ in range(2):
            (worker,) = cluster._workers
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            cluster._prepare(bench.settings("counts.py", "--log", str(bench.log)))
            wait_until(lambda worker=worker: cluster._workers != [worker])
            wait_until(lambda: len(cluster.client.nthreads()) == 1)
        worker.stdin.close()
        cluster._workers[0].stdin.close()
        cluster._prepare(bench.settings("counts.py", "--log", str(bench.log)))
