"""Runs that are told to pause, to continue, to forgive more or less, to have more or fewer processes."""

import json
import os
import time
from collections import Counter
from functools import partial

import pytest

from prefect_parallel_run.cli import main
from prefect_parallel_run.cli.control import send_command

from ..conftest import ours, wait_until
from .conftest import ledger, report

IN_TIME = 5.0  #: s, as promised
PACE = {"mini_batches_per_minute": 6000}  #: each is sent when a process is idle: none has to be recalled when the run is paused
EXPECTED = "".join(f"f{number:03d}.txt\n" for number in range(100)).encode()


class Controlled:
    """A run in a process of its own, which people control."""

    def __init__(self, driver, capsys):
        self.driver, self._capsys = driver, capsys

    @property
    def run(self):
        return wait_until(lambda: self.driver.runs)[0]

    def order(self, *words):
        """Give an order; return the exit code and what was printed."""
        self._capsys.readouterr()
        code = main(["control", str(self.run), *words, "--json"])
        said = self._capsys.readouterr()
        return code, json.loads(said.out) if said.out else said.err

    def applied(self, *words):
        code, said = self.order(*words)
        assert (code, said["applied"]) == (0, True), said
        report(f"control {words[0]}", seconds=said["seconds"])

    def tries(self):
        return ledger(self.run, "SELECT COUNT(*) FROM attempts")[0][0]

    def quiet(self):
        """Wait until all that ran when the run was paused is at its end, and nothing begins any more."""
        log = self.driver.workshop.log

        def stays_quiet():
            before = begun(log)
            time.sleep(1.0)  # several times what a mini-batch takes
            return len(before) == self.tries() and begun(log) == before

        wait_until(stays_quiet)


@pytest.fixture
def controlled(driver, capsys, monkeypatch):
    patient = partial(send_command, timeout=300.0)  # by default it waits for the answer as long as a person would
    monkeypatch.setattr("prefect_parallel_run.cli.control.send_command", patient)
    return Controlled(driver, capsys)


def begun(log):
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if line.startswith("run ")]


def children():
    return {process.pid for process in ours("child/__main__.py") if process.is_running()}


def test_a_run_is_paused_goes_on_and_has_more_and_fewer_processes(controlled, driver, workshop, monkeypatch):
    """Every mini-batch runs once, every process calls shutdown(), none is killed."""
    monkeypatch.setenv("DRIVER_ARGUMENTS", "--doors 10,25")  # so that there is work left for each order
    options = {"process_count_per_node": 1, "node_count": 2, **PACE}
    with driver.start(seconds=0.2, entry_script="lives.py", **options) as process:
        wait_until(lambda: begun(workshop.log))
        assert controlled.order("processes", "0")[0] == 2
        controlled.applied("processes", "3")
        began = time.monotonic()
        wait_until(lambda: len({line.split()[1] for line in begun(workshop.log)}) == len(children()) == 6)
        report("control processes 3, both nodes have them", seconds=time.monotonic() - began)
        controlled.applied("pause")
        assert main(["show", str(controlled.run), "--json"]) == 0
        assert json.loads(controlled._capsys.readouterr().out)["status"] == "paused"
        workshop.open_door(10)
        controlled.quiet()
        was = begun(workshop.log)
        assert len(was) <= 10 + 6
        controlled.applied("continue")
        wait_until(lambda: len(begun(workshop.log)) > 25)
        controlled.applied("pause")  # so that no process gets other work before it is retired
        controlled.applied("processes", "1")
        began = time.monotonic()
        workshop.open_door(25)
        wait_until(lambda: len(children()) == 2)
        report("control processes 1, both nodes have it", seconds=time.monotonic() - began)
        controlled.applied("continue")
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert driver.result.read_bytes() == EXPECTED
    assert Counter(line.split()[2] for line in begun(workshop.log)) == Counter(map(str, range(50)))
    lines = [line.split() for line in workshop.log.read_text().splitlines()]
    lives = Counter((line[0], line[1]) for line in lines if line[0] in ("init", "shutdown"))
    processes = {pid for what, pid in lives if what == "shutdown"}
    assert set(lives.values()) == {1}
    assert len(processes) >= 6
    assert {pid for what, pid in lives if what == "init"} == processes
    assert ledger(controlled.run, "SELECT COUNT(*), SUM(attempt=1) FROM attempts") == [(50, 50)]
    noted = ledger(controlled.run, "SELECT what, by, applied_at - at FROM controls ORDER BY at")
    assert [json.loads(what) for what, *_ in noted] == [
        {"processes": {"process_count_per_node": 3}},
        {"pause": {}},
        {"continue": {}},
        {"pause": {}},
        {"processes": {"process_count_per_node": 1}},
        {"continue": {}},
    ]
    assert all(by.endswith(f"/{os.getpid()}") for _, by, _ in noted)
    assert min(seconds for *_, seconds in noted) < IN_TIME  # not all of them: other programs may keep this machine busy
    assert main(["verify", str(controlled.run)]) == 0
    code, said = controlled.order("pause")
    assert code == 1
    assert "already finished" in said["error"]["message"]


def test_what_was_changed_outlives_a_killed_flow_process_and_a_pause_does_not(controlled, driver, workshop, monkeypatch):
    """Higher limits let a run go on that was held; they, and the number of processes, hold for whoever goes on with it."""
    monkeypatch.setenv("DRIVER_ARGUMENTS", "--poison 1 --doors 10,25")
    limits = {"allowed_failed_count": 0, "run_max_try": 2, "retry_delay_seconds": 600, **PACE}
    with driver.start(seconds=0.1, **limits) as process:
        wait_until(lambda: controlled.driver.runs and controlled.tries())
        wait_until(lambda: ledger(controlled.run, "SELECT COUNT(*) FROM attempts WHERE outcome='raised'")[0][0])
        workshop.open_door(10)
        wait_until(lambda: len(begun(workshop.log)) == controlled.tries() < 50)  # held
        held = controlled.tries()
        controlled.applied("limits", "--allowed-failed-count", "5")
        began = time.monotonic()
        wait_until(lambda: controlled.tries() > held)
        report("control limits, a run that was held goes on", seconds=time.monotonic() - began)
        controlled.applied("processes", "3")
        controlled.applied("pause")
        workshop.open_door(25)
        controlled.quiet()
        tries = controlled.tries()
        process.kill()
        process.communicate()
    wait_until(lambda: not ours())
    run = controlled.run
    assert main(["resume", str(run), "--retry-delay-seconds", "0", "--json"]) == 0
    result = json.loads(controlled._capsys.readouterr().out)
    assert (result["limits"]["allowed_failed_count"], result["mini_batches_failed"], result["mini_batches_total"]) == (5, 1, 50)
    assert controlled.tries() == 51
    assert len(begun(workshop.log)) == 51 > tries
    events = map(json.loads, (run / "logs" / "r2.node-0.processes.jsonl").read_text().splitlines())
    assert {event["process"] for event in events} == {f"r2.node-0.{number}.1" for number in range(3)}
    assert len(ledger(run, "SELECT * FROM controls")) == 3
    receipt = json.loads((run / "receipt.json").read_text())
    assert receipt["limits"]["allowed_failed_count"] == 5
    _, said = driver.run(seconds=0.1, **limits)  # the same step again: its result is there, under what was changed
    assert (said["result"]["reused"], said["result"]["limits"]["allowed_failed_count"]) == (True, 5)
    assert main(["resume", str(run), "--allowed-failed-count", "0"]) == 1  # who says so now has the last word
    assert "allowed_failed_count exceeded: 1 failed mini-batch, 0 allowed" in controlled._capsys.readouterr().err
    assert main(["resume", str(run)]) == 0
    assert main(["verify", str(run)]) == 0


def test_lower_limits_end_a_run(controlled, driver, workshop, monkeypatch):
    """At once, with their figures; and a run that goes on from there has them too."""
    monkeypatch.setenv("DRIVER_ARGUMENTS", "--poison 1 --doors 10")
    with driver.start(seconds=0.2, run_max_try=1) as process:
        failed = "SELECT COUNT(*) FROM mini_batches WHERE state='failed'"
        wait_until(lambda: controlled.driver.runs and ledger(controlled.run, failed)[0][0])
        controlled.applied("limits", "--error-threshold", "1", "--allowed-failed-percent", "50")
        began = time.monotonic()
        _, err = process.communicate(timeout=600)
        report("control limits, the run ends", seconds=time.monotonic() - began)
    assert process.returncode == 1
    assert "LimitExceededError: error_threshold exceeded: 2 failed items, 1 allowed" in err
    assert controlled.tries() < 50
    workshop.open_door(10)
    assert main(["resume", str(controlled.run)]) == 1
    assert "error_threshold exceeded: 2 failed items, 1 allowed" in controlled._capsys.readouterr().err
    assert main(["resume", str(controlled.run), "--error-threshold", "2"]) == 0


def test_an_order_nobody_can_take_is_refused(controlled, workshop, capsys):
    """With what to do instead."""
    assert main(["control", str(workshop.folder), "pause"]) == 1
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["control", "s3://bucket/out/_parallel_run/run-1", "pause"]) == 1
    assert "send the command on the machine of the flow process" in capsys.readouterr().err
    assert main(["control", str(workshop.folder), "limits"]) == 2
    assert "expected one or more of --error-threshold" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["control", str(workshop.folder), "stop"])
    assert caught.value.code == 2
