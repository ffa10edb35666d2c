"""The local cluster: its nodes may start their children before they have joined it."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.dispatch import workers
from prefect_parallel_run.errors import ComputeTargetError

from .conftest import wait_until, worker_counts_of_eight


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


def test_a_cluster_opens_without_settings(bench):
    """They may arrive later."""
    with LocalTarget().open(request(1, 2), threading.Event(), Future()) as cluster:
        assert (cluster.prepared, cluster.slots) == (0, 2)
        assert len(cluster.client.nthreads()) == 1
    assert begun(bench) == []


def test_a_stop_of_this_process_declares_nothing_lost(monkeypatch):
    """Ctrl-Z, or a paused machine, before or after the scheduler's answer has arrived: later messages could not be read."""
    monkeypatch.setattr(workers, "_QUERY_INTERVAL", 0.0)
    answered = threading.Event()
    stopped = [0.0]
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(stopped)))
    with LocalTarget().open(request(1, 1), threading.Event(), Future()) as cluster:
        live = workers.LiveWorkers(cluster.client, cluster.discard, answered.set)
        for pause in (0.0, 10 * workers._PATIENCE):
            answered.clear()
            assert live.poll() is None  # asks
            assert answered.wait(300)
            stopped.append(pause)
            assert live.poll() == []
        assert len(live.info) == 1
        monkeypatch.setattr(live, "_ask_scheduler", Future)  # a scheduler that never answers
        for _ in range(2):
            assert live.poll() is None
            stopped.append(10 * workers._PATIENCE)

        def poll_every_four_seconds():
            for _ in range(10):
                live.poll()
                stopped.append(4.0)

        with pytest.raises(ComputeTargetError, match="no answer for 30 s"):
            poll_every_four_seconds()


def test_a_worker_that_dies_during_setup_is_replaced(bench):
    """Whether or not the replacement has started; the cluster can be closed."""
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


def test_a_timeout_while_closing_leaves_no_process_and_no_error(monkeypatch):
    """On a busy machine Dask's client and scheduler may exceed their timeouts; the step has its result by then."""

    def time_out(**_):
        raise asyncio.TimeoutError

    with LocalTarget().open(request(2, 1), threading.Event(), Future()) as cluster:
        client, scheduler = cluster.client.close, cluster._scheduler.close
        monkeypatch.setattr(cluster.client, "close", time_out)
        monkeypatch.setattr(cluster._scheduler, "close", time_out)
    assert [worker.poll() for worker in cluster._workers] == [-signal.SIGKILL] * 2
    assert not os.path.exists(cluster._folder)
    client()
    scheduler()


def test_a_users_handlers_keep_their_level():
    """A handler on Dask's logger may serve other loggers too; Dask's ``silence_logs`` would lower what it shows."""
    handler, logger = logging.StreamHandler(), logging.getLogger("distributed")
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with LocalTarget().open(request(1, 1), threading.Event(), Future()):
            assert handler.level == logging.INFO
    finally:
        logger.removeHandler(handler)


def test_eight_clusters_open_at_the_same_time():
    """Steps that are submitted together: Dask's late imports must not race."""
    assert worker_counts_of_eight(LocalTarget()) == [1] * 8


def test_no_dashboard_is_served_unless_asked_for():
    """It has no password, and it needs a package that a plain install lacks."""
    with LocalTarget().open(request(1, 1), threading.Event(), Future()) as cluster:
        assert cluster.dashboard == ""


def test_a_dashboard_without_bokeh_is_a_clear_error(monkeypatch):
    """Not a link that leads to an error page."""
    monkeypatch.setitem(sys.modules, "distributed.dashboard.scheduler", None)
    target = LocalTarget().open(replace(request(1, 1), dashboard=True), threading.Event(), Future())
    with (
        pytest.raises(ValueError, match=r"dashboard is true, but bokeh cannot be imported .*; pip install bokeh, or set"),
        target,
    ):
        pytest.fail("it opened")
