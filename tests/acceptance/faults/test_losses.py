"""What fails costs itself and nothing else."""

import json
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from prefect_parallel_run import ComputeTargetError, LimitExceededError, NothingSucceededError
from prefect_parallel_run.cli import main

from ..conftest import ours, wait_until


def ledger(run_directory, query):
    with sqlite3.connect(Path(run_directory, "ledger.sqlite")) as connection:
        return connection.execute(query).fetchall()


def run_directory(workshop):
    return next((workshop.output / "_parallel_run").glob("test-*"))


@pytest.fixture
def sixty(tmp_path, workshop):
    """Sixty mini-batches of five files."""
    workshop.files = tmp_path / "sixty"
    workshop.files.mkdir()
    for number in range(300):
        (workshop.files / f"f{number:03d}.txt").write_text(f"{number}\n")
    return workshop


@pytest.mark.parametrize("how", ["raise", "exit", "kill", "hang", "none", "segfault", "system_exit", "recursion", "deaf"])
def test_one_poisoned_of_sixty_fails_alone(sixty, how):
    """It is run exactly run_max_try times, every other exactly once; its rows are missing, all others in order."""
    timeout = 5 if how in ("hang", "deaf") else 60  # long enough for the others on a busy machine
    options = {"mini_batch_size": 5, "node_count": 2, "run_max_try": 2, "run_invocation_timeout": timeout}
    result = sixty.step("poison.py", "--how", how, "--poison", "17", **options)()
    assert (result.mini_batches_succeeded, result.mini_batches_failed) == (59, 1)
    assert (result.items_succeeded, result.items_failed) == (295, 5)
    expected = sorted([(number, 1) for number in range(60)] + [(17, 2)])
    assert sixty.invocations() == expected
    assert Path(result.output_file).read_text().split() == [f"f{i:03d}.txt" for i in range(300) if i // 5 != 17]
    told = [json.loads(line) for line in Path(result.run_directory, "failed_items.jsonl").read_text().splitlines()]
    assert [entry["mini_batch"] for entry in told] == [17] * 5
    assert {entry["tries"] for entry in told} == {2}
    assert ledger(result.run_directory, "SELECT COUNT(*) FROM attempts WHERE outcome <> 'succeeded'") == [(2,)]


def test_processes_that_are_lost_again_and_again_are_replaced_by_spares(sixty):
    """In leases, on tries of their own, on every node; each process imports the script once, and the result is right."""
    arguments = ("--log", str(sixty.log), "--seconds", "0.02", "--crash", "7,17,27,37,47", "--hang", "57")
    limits = {"run_max_try": 2, "run_invocation_timeout": 5}
    result = sixty.step("lives.py", *arguments, mini_batch_size=5, node_count=2, process_count_per_node=1, **limits)()
    lost = {7, 17, 27, 37, 47, 57}
    assert (result.mini_batches_succeeded, result.mini_batches_failed) == (54, 6)
    assert Path(result.output_file).read_text().split() == [f"f{i:03d}.txt" for i in range(300) if i // 5 not in lost]
    assert main(["verify", result.run_directory]) == 0
    notes = [line.split() for line in sixty.log.read_text().splitlines()]
    ran = [int(note[2]) for note in notes if note[0] == "run"]
    assert sorted(ran) == sorted([*range(60), *lost])
    imported, initialised = ([note[1] for note in notes if note[0] == what] for what in ("import", "init"))
    assert len(set(imported)) == len(imported)
    assert len(set(initialised)) == len(initialised) >= 2 + 6  # one per node, and after each loss but a node's last
    assert sum(".spare." in note[2] for note in notes if note[0] == "init") >= 5
    spent = ledger(result.run_directory, "SELECT COUNT(*) FROM attempts WHERE outcome IN ('died', 'timed_out')")
    assert spent == [(12,)]


def test_rows_come_in_order_from_four_processes_that_take_random_times(sixty):
    """Mini-batches end in another order than they began."""
    arguments = ("--log", str(sixty.log), "--processes", "4")  # all of them: one alone would keep the order
    result = sixty.step("random_delays.py", *arguments, mini_batch_size=1, node_count=2)()
    assert Path(result.output_file).read_text().split() == [f"f{i:03d}.txt" for i in range(300)]
    order = [row[0] for row in ledger(result.run_directory, "SELECT mini_batch FROM attempts ORDER BY started + seconds")]
    assert order != sorted(order)


def test_a_success_on_the_second_try_is_no_failure(workshop):
    """Even when the limits forgive nothing."""
    result = workshop.step("fails_first.py", error_threshold=0, allowed_failed_count=0, allowed_failed_percent=0)()
    assert (result.mini_batches_failed, result.items_succeeded) == (0, 100)


def test_no_retry_ends_the_tries(workshop):
    """One invocation each, and nothing to publish."""
    with pytest.raises(NothingSucceededError, match=r"0 of 100 items succeeded.*NoRetry: never"):
        workshop.step("no_retry.py", "--log", str(workshop.log))()
    assert workshop.invocations() == [(number, 1) for number in range(10)]


@pytest.mark.parametrize(
    ("limits", "named", "figures"),
    [
        ({"error_threshold": 9}, "error_threshold", (9, 10)),
        ({"allowed_failed_count": 0}, "allowed_failed_count", (0, 1)),
        ({"allowed_failed_percent": 9}, "allowed_failed_percent", (9, 10)),
    ],
)
def test_more_than_a_limit_aborts_and_publishes_nothing(workshop, limits, named, figures):
    """The error names the limit with its figures and the first failure; the ledger is kept."""
    step = workshop.step("poison.py", "--how", "raise", "--poison", "0", run_max_try=1, **limits)
    with pytest.raises(LimitExceededError) as caught:
        step()
    error = caught.value
    assert (error.limit, error.allowed, error.actual) == (named, *figures)
    assert "mini-batch 0: ZeroDivisionError: division by zero" in str(error)
    assert not list(workshop.output.glob("*.txt"))
    assert ledger(error.run_directory, "SELECT state FROM mini_batches WHERE mini_batch = 0") == [("failed",)]


def test_the_limit_itself_is_forgiven(workshop):
    """Ten failed items of ten, one mini-batch of one, ten percent of ten."""
    limits = {"error_threshold": 10, "allowed_failed_count": 1, "allowed_failed_percent": 10}
    result = workshop.step("poison.py", "--how", "raise", "--poison", "0", run_max_try=1, **limits)()
    assert result.items_failed == 10


def test_an_abort_stops_what_is_running(workshop):
    """A neighbour that would run for a long time does not hold the end up, and the same again with higher limits goes on."""
    arguments = ("--how", "raise", "--poison", "0", "--sleep", "600")
    step = workshop.step("slow.py", *arguments, run_max_try=1, error_threshold=0, run_invocation_timeout=1000, node_count=2)
    began = time.monotonic()
    with pytest.raises(LimitExceededError):
        step()
    assert time.monotonic() - began < 550  # against 600 s; how fast it is is measured in tests/benchmarks
    again = workshop.step("slow.py", "--how", "raise", "--poison", "0", "--sleep", "600", run_max_try=1, error_threshold=0)
    with pytest.raises(LimitExceededError):  # the ledger knows; nothing is run a second time
        again()
    assert workshop.invocations().count((0, 1)) == 2


def test_fewer_rows_than_items_are_failed_items(workshop):
    """Counted once, not retried; named by mini-batch in failed_items.jsonl."""
    result = workshop.step("short.py", mini_batch_size=10)()
    assert result.mini_batches_failed == 0
    assert result.items_succeeded + result.items_failed == 100
    assert result.items_failed > 0
    with pytest.raises(LimitExceededError):
        workshop.step("short.py", mini_batch_size=10, error_threshold=result.items_failed - 1, output=workshop.folder / "o")()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_costs_no_finished_mini_batch(workshop, signal_number, monkeypatch):
    """Killed, or stopped until it counts as lost: the run completes, nothing that was committed runs again."""
    monkeypatch.setattr("prefect_parallel_run.dispatch.workers._PATIENCE", 10)
    arguments = ("--sleep", "0.2", "--doors", "12")  # so that the run goes on until a worker is lost
    step = workshop.step("slow.py", *arguments, mini_batch_size=2, node_count=2, process_count_per_node=1)
    killed = []

    def kill_one():
        try:
            wait_until(lambda: len(workshop.invocations()) >= 8)
            workers = ours("compute/worker.py")
            killed.append(workers[0].pid)
            workers[0].send_signal(signal_number)
        finally:
            workshop.open_door(12)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        result = step()
    finally:
        killer.join()
    assert killed
    assert (result.mini_batches_succeeded, result.mini_batches_failed) == (50, 0)
    assert Path(result.output_file).read_text().split() == [f"f{i:03d}.txt" for i in range(100)]
    states = ledger(result.run_directory, "SELECT mini_batch, COUNT(*) FROM attempts WHERE outcome='succeeded' GROUP BY 1")
    assert states == [(number, 1) for number in range(50)]
    attempts = ledger(result.run_directory, "SELECT MAX(attempts) FROM mini_batches")
    assert attempts[0][0] <= 2


def test_when_no_worker_stays_alive_prefect_retries_and_goes_on_from_the_ledger(workshop, monkeypatch):
    """All workers die until the cluster is given up; the task's retry opens a new one and runs only what is left."""
    monkeypatch.setattr("prefect_parallel_run.compute.local._RESTARTS", 0)
    monkeypatch.setattr("prefect_parallel_run.dispatch.state._NODE_PATIENCE", 5.0)
    arguments = ("--sleep", "0.1", "--doors", "8")  # so that the run goes on until its worker is lost
    step = workshop.step("slow.py", *arguments, mini_batch_size=2, run_max_try=3, process_count_per_node=1)
    killed = []

    def kill_all():
        try:
            wait_until(lambda: len(workshop.invocations()) >= 5)
            for process in ours("compute/worker.py"):
                killed.append(process.pid)
                process.kill()
        finally:
            workshop.open_door(8)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        result = step()
    finally:
        killer.join()
    assert len(killed) == 1
    assert result.mini_batches_succeeded == 50
    assert ledger(result.run_directory, "SELECT value FROM run WHERE key='drives'") == [("2",)]
    succeeded = ledger(result.run_directory, "SELECT COUNT(*) FROM attempts WHERE outcome='succeeded'")
    assert succeeded == [(50,)]
    assert len(workshop.invocations()) <= 51 + 10  # at most the leases in flight ran again


def test_without_retries_the_loss_of_all_workers_is_an_error(workshop, monkeypatch):
    """In a bounded time, with a ledger to go on from."""
    monkeypatch.setattr("prefect_parallel_run.compute.local._RESTARTS", 0)
    monkeypatch.setattr("prefect_parallel_run.compute.local._WORKER", Path(__file__))  # a worker that ends at once
    with pytest.raises(ComputeTargetError, match="no worker stays alive"):
        workshop.step(run_max_try=1)()
