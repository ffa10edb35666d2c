"""The local cluster: its nodes may start their children before they have joined it."""

import threading
import time
from concurrent.futures import Future

import psutil

from prefect_parallel_run.compute.local import LocalTarget


def wait_until(fact, seconds=60.0):
    """Wait for an event, with a generous bound."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(0.01)


def begun(bench):
    """Processes in which init() has been called."""
    lines = bench.log.read_text().splitlines() if bench.log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("init ")]


def test_children_start_while_the_cluster_opens(bench):
    """Where the settings are known by then; and a run that never opens its nodes leaves no process behind."""
    settings = Future()
    settings.set_result(bench.settings("counts.py", "--log", str(bench.log), most_slots=2))
    with LocalTarget().open(2, 2, threading.Event(), settings) as cluster:
        assert cluster.prepared == 2
        wait_until(lambda: len(begun(bench)) == 4)
    assert len(set(begun(bench))) == 4
    wait_until(lambda: not any(psutil.pid_exists(process) for process in begun(bench)))


def test_a_cluster_without_settings_opens_all_the_same(bench):
    """They may come later than it is open."""
    with LocalTarget().open(1, 2, threading.Event(), Future()) as cluster:
        assert (cluster.prepared, cluster.slots) == (0, 2)
        assert len(cluster.client.nthreads()) == 1
    assert begun(bench) == []
