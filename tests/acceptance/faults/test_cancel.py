"""A cancelled run ends quickly, records it in its ledger, and can be resumed."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling

from prefect_parallel_run.cli import main

from ...processes import interrupt
from ..conftest import ours, wait_until
from .conftest import ROOT, Started, ledger


@contextmanager
def started(workshop, how):
    """Start a flow that cannot end before it is cancelled: its mini-batches wait at doors. It is killed if the test fails."""
    command = [sys.executable, str(Path(__file__).with_name("cancelled_flow.py"))]
    command += [str(workshop.scripts), str(workshop.files), str(workshop.output), str(workshop.log), how, "10,20"]
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": PREFECT_API_URL.value()}
    with (
        stderr_of(workshop).open("w") as stderr,
        Started(command, env=environment, stderr=stderr, start_new_session=True) as process,
    ):
        wait_until(lambda: len(workshop.invocations()) >= 3 or process.poll() is not None)
        assert process.poll() is None, stderr_of(workshop).read_text()
        yield process


def stderr_of(workshop):
    return workshop.folder / "stderr.txt"


def send(workshop, process, number, has_effect):
    """Send a signal, and wait for its effect."""
    interrupt(lambda: process.send_signal(number), has_effect, stderr_of(workshop).read_text)


def run_directory(workshop):
    return next((workshop.output / "_parallel_run").glob("test-*"))


def status(run):
    return ledger(run, "SELECT value FROM run WHERE key='status'")[0][0]


def check_cancelled_and_resume(workshop):
    said = stderr_of(workshop).read_text()
    wait_until(lambda: not ours())
    run = run_directory(workshop)
    assert status(run) == "cancelled", said
    assert not (workshop.output / "parallel_run_step.txt").exists()
    assert ledger(run, "SELECT COUNT(*) FROM attempts WHERE outcome <> 'succeeded'") == [(0,)], "cancelling is no failed try"
    done = {row[0] for row in ledger(run, "SELECT mini_batch FROM mini_batches WHERE state='succeeded'")}
    before = len(workshop.invocations())
    for door in (10, 20):
        workshop.open_door(door)
    assert main(["resume", str(run)]) == 0
    assert {index for index, _ in workshop.invocations()} == set(range(50))
    assert len(workshop.invocations()) - before == 50 - len(done)
    assert (workshop.output / "parallel_run_step.txt").read_text().split() == [f"f{i:03d}.txt" for i in range(100)]
    assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize("how", ["called", "submitted"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(workshop, how, number):
    """SIGTERM, as sent by a Prefect worker, and Ctrl-C."""
    with started(workshop, how) as process:
        send(workshop, process, number, lambda: process.poll() is not None)
    check_cancelled_and_resume(workshop)


def test_ctrl_c_twice(workshop):
    """The second one arrives during the cleanup and shortens it; still no process is left, and the run can be resumed."""
    with started(workshop, "called") as process:
        run = run_directory(workshop)
        send(workshop, process, signal.SIGINT, lambda: status(run) == "cancelled")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=600)
    check_cancelled_and_resume(workshop)


def test_a_submitted_step_detects_cancellation_in_the_api(workshop):
    """The flow run's state is Cancelling, and there was no signal."""
    with started(workshop, "submitted") as process, get_client(sync_client=True) as client:
        newest = max(client.read_flow_runs(), key=lambda run: run.created)
        client.set_flow_run_state(newest.id, Cancelling(), force=True)
        process.wait(timeout=600)
    check_cancelled_and_resume(workshop)


def test_resume_itself_can_be_cancelled(workshop):
    """Exit code 130 for both Ctrl-C and SIGTERM."""
    with started(workshop, "called") as process:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)
    wait_until(lambda: not ours())
    run = run_directory(workshop)
    seen = len(workshop.invocations())
    workshop.open_door(10)
    command = [sys.executable, "-m", "prefect_parallel_run.cli", "resume", str(run)]
    with Started(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) as resumed:
        wait_until(lambda: len(workshop.invocations()) > seen + 2)
        resumed.send_signal(signal.SIGTERM)
        resumed.communicate(timeout=600)
    assert resumed.returncode == 130
    wait_until(lambda: not ours())
    assert status(run) == "cancelled"
