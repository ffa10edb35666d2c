"""Tasks of the flow process on a real local cluster: lost workers, errors, machines that cannot run them, cancellation."""

import os
import signal
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import pytest

from prefect_parallel_run._threads import never_cancelled
from prefect_parallel_run.compute import local
from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.dispatch import worker_tasks as module
from prefect_parallel_run.dispatch.worker_tasks import WorkerTasks
from prefect_parallel_run.errors import ComputeTargetError, OutputError, RowsDifferError
from prefect_parallel_run.node.worker_tasks import TaskRefusedError, run_task, stop_tasks
from prefect_parallel_run.runs.events import Warned

from .conftest import wait_until


class Job(NamedTuple):
    """What a task is to do."""

    number: int
    folder: str  #: shared by all processes
    how: str = "return"
    times: int = 1  #: how often it happens


def note(job, what):
    """Record that something happens, and return how often it has happened before."""
    for count in range(100):
        try:
            os.close(os.open(Path(job.folder, f"{what}-{job.number}-{count}"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return count
    raise AssertionError(what)


def work(job, check_cancelled):
    """Do what *job* says, on a worker or here."""
    if job.how == "kill" and note(job, "kill") < job.times:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.how == "stop" and note(job, "stop") < job.times:
        os.kill(os.getpid(), signal.SIGSTOP)
    if job.how == "meet":
        Path(job.folder, f"meet-{os.getpid()}").touch()
        wait_until(lambda: len(list(Path(job.folder).glob("meet-*"))) == 2)
    if job.how == "wait":
        note(job, "wait")
        while True:
            try:
                check_cancelled()
            except BaseException:
                note(job, "stopped")
                raise
    if job.how == "differ":
        raise RowsDifferError("/r", "columns differ", job.number, ("a.csv",), 0, ("b.csv",))
    return job.number, os.getpid()


def refuse(job, check_cancelled):
    raise TaskRefusedError(job.folder)


def fail(job, check_cancelled):
    raise OutputError(job.folder, "cannot be written: Permission denied")


@pytest.fixture
def cluster():
    with LocalTarget().open(Request(nodes=2, at_least=None, slots=2, timeout=120), threading.Event(), Future()) as opened:
        yield opened


@pytest.fixture
def tasks(cluster):
    """Make the runner of tasks; its warnings are in ``said``."""

    def make(on_worker=work, here=work, at_most=2):
        runner = WorkerTasks(cluster, at_most, on_worker, here, said.append)
        runner.said = said
        return runner

    said = []
    return make


def jobs(folder, *hows, count=12, **options):
    """Tasks that return, and before them those in *hows*."""
    return [Job(number, str(folder), how, **options) for number, how in enumerate([*hows, *["return"] * (count - len(hows))])]


def test_tasks_run_on_all_workers(tasks, tmp_path):
    """Each once, and none in the flow process."""
    runner = tasks()
    results = sorted(runner.run(jobs(tmp_path, "meet", "meet", "meet", count=200), never_cancelled))
    assert [number for number, _ in results] == list(range(200))
    assert len({process for _, process in results} - {os.getpid()}) == 2
    assert runner.said == []


def test_workers_are_awaited_until_they_are_listed(tasks, tmp_path, monkeypatch):
    """Without any patience, too: planning the tasks may take long, and no worker is known before the first answer."""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    runner = tasks()
    results = list(runner.run(jobs(tmp_path), never_cancelled))
    assert os.getpid() not in {process for _, process in results}
    assert runner.said == []


def test_no_more_workers_are_used_than_allowed(tasks, tmp_path):
    """A shared cluster may have others."""
    results = list(tasks(at_most=1).run(jobs(tmp_path), never_cancelled))
    assert len({process for _, process in results}) == 1


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_worker_costs_only_its_tasks(tasks, tmp_path, how, monkeypatch):
    """They run again on the other worker, or on the one that replaces it."""
    monkeypatch.setattr("prefect_parallel_run.dispatch.workers._PATIENCE", 7 * local._HEARTBEAT_INTERVAL)
    monkeypatch.setattr(module, "_PATIENCE", 300.0)  # a replacement may be slow
    results = sorted(tasks().run(jobs(tmp_path, how, how), never_cancelled))
    assert [number for number, _ in results] == list(range(12))
    assert os.getpid() not in {process for _, process in results}


def test_a_task_that_kills_workers_is_an_error(tasks, tmp_path):
    """It is not run in the flow process, which it might kill, too."""
    with pytest.raises(ComputeTargetError, match="it is one of 3 workers that were lost while they wrote the same part"):
        list(tasks().run(jobs(tmp_path, "kill", times=9), never_cancelled))
    assert len(list(tmp_path.glob("kill-0-*"))) == 3


def test_the_flow_process_runs_the_rest_without_workers(tasks, tmp_path, cluster, monkeypatch):
    """The last one is lost, and none replaces it."""
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    monkeypatch.setattr("prefect_parallel_run.compute.local._RESTARTS", 0)
    runner = tasks()
    results = sorted(runner.run(jobs(tmp_path, "kill", "kill"), never_cancelled))
    assert [number for number, _ in results] == list(range(12))
    assert Counter(process for _, process in results)[os.getpid()] >= 2
    (warning,) = runner.said
    assert isinstance(warning, Warned)
    assert warning.text == "no worker for 0.5 s; the flow process writes the rest of the result"


def test_the_flow_process_runs_what_workers_refuse(tasks, tmp_path):
    """They do not share the folder: that is not worth a warning."""
    runner = tasks(refuse)
    results = sorted(runner.run(jobs(tmp_path), never_cancelled))
    assert results == [(number, os.getpid()) for number in range(12)]
    assert runner.said == []


def test_an_error_of_a_worker_alone_is_a_warning(tasks, tmp_path):
    """The flow process can do it."""
    runner = tasks(fail)
    results = sorted(runner.run(jobs(tmp_path), never_cancelled))
    assert results == [(number, os.getpid()) for number in range(12)]
    assert all("cannot write the result: OutputError: output" in warning.text for warning in runner.said)
    assert len(runner.said) == 2


def test_an_error_keeps_its_type_and_facts(tasks, tmp_path):
    """As if the flow process alone had met it."""
    with pytest.raises(RowsDifferError) as caught:
        list(tasks().run(jobs(tmp_path, "return", "differ"), never_cancelled))
    error = caught.value
    assert (error.mini_batch, error.files, error.other, error.other_files) == (1, ("a.csv",), 0, ("b.csv",))


class StopError(Exception):
    pass


def test_running_tasks_are_stopped(tasks, tmp_path):
    """Before the error is raised: the folder that they write to may then be deleted."""

    def check_cancelled():
        if len(list(tmp_path.glob("wait-*"))) == 4:
            raise StopError

    with pytest.raises(StopError):
        list(tasks().run(jobs(tmp_path, *["wait"] * 4), check_cancelled))
    assert len(list(tmp_path.glob("stopped-*"))) == 4


def test_a_stopped_task_does_not_start(cluster, tmp_path):
    """It may have waited for a thread of the worker."""
    address = next(iter(cluster.client.nthreads()))
    cluster.client.run(stop_tasks, "token", workers=[address])
    future = cluster.client.submit(run_task, "token", work, Job(0, str(tmp_path)), workers=[address], pure=False)
    wait_until(future.done)
    assert future.status == "error"
