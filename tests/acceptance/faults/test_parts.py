"""Nodes that are lost, and a user who cancels, while the parts of a result are written."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from prefect_parallel_run.cli import main
from prefect_parallel_run.execution import runner
from prefect_parallel_run.output.part_writer import write_on_node

from ..conftest import wait_until

EXPECTED = [f"f{number:03d}.txt" for number in range(100)]


def is_first(task, what):
    """True for the first caller, of all processes."""
    try:
        os.close(os.open(Path(task.source).parent / what, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def write_and_die(task, check_cancelled):
    """Write a part; the process that writes the third one is killed before the flow process learns that it is complete."""
    written = write_on_node(task, check_cancelled)
    if task.number == 2 and is_first(task, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return written


def write_for_ever(task, check_cancelled):
    """Never end, until cancelled."""
    write_on_node(task, check_cancelled)
    is_first(task, "began")
    while True:
        check_cancelled()


def writer(task, check_cancelled):
    """Write a part and record which process did."""
    written = write_on_node(task, check_cancelled)
    with (Path(task.source).parent / "writers.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return written


def repeat_ctrl_c_if_ignored(monkeypatch):
    """Send it to this process again: Python ignores an exception that is raised while a finalizer runs."""
    report = sys.unraisablehook

    def repeat(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()  # later: here it would be ignored too
        else:
            report(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", repeat)


def step(workshop, **fields):
    return workshop.step(append_row_file_name="names.jsonl", append_row_max_file_size=300, node_count=2, **fields)


def rows(result):
    paths = sorted(Path(result.output_file).iterdir())
    return [json.loads(line)["value"] for path in paths for line in path.read_text().splitlines()]


def test_nodes_write_the_parts(workshop, monkeypatch):
    """Not the flow process."""
    monkeypatch.setattr(runner, "write_on_node", writer)
    result = step(workshop)()
    assert rows(result) == EXPECTED
    writers = set(map(int, Path(result.run_directory, "writers.txt").read_text().split()))
    assert writers
    assert os.getpid() not in writers
    assert main(["verify", result.run_directory]) == 0


def test_a_node_that_is_killed_costs_its_part(workshop, monkeypatch):
    """It is written again; nothing of the first attempt is published, and no mini-batch runs again."""
    monkeypatch.setattr(runner, "write_on_node", write_and_die)
    result = step(workshop)()
    assert rows(result) == EXPECTED
    assert Path(result.run_directory, "killed").exists()
    assert main(["verify", result.run_directory]) == 0
    assert len(workshop.invocations()) == 10
    assert sorted(path.name for path in workshop.output.iterdir()) == ["_parallel_run", "names.jsonl"]


def test_ctrl_c_leaves_the_earlier_result_and_nothing_else(workshop, monkeypatch):
    """A later start publishes, from the ledger."""
    (workshop.output / "names.jsonl").mkdir(parents=True)
    (workshop.output / "names.jsonl" / "part-00000.jsonl").write_text("before")
    monkeypatch.setattr(runner, "write_on_node", write_for_ever)
    repeat_ctrl_c_if_ignored(monkeypatch)

    def interrupt():
        wait_until(lambda: list(workshop.output.glob("_parallel_run/*/began")))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        step(workshop)()
    assert sorted(path.name for path in workshop.output.iterdir()) == ["_parallel_run", "names.jsonl"]
    assert [path.read_text() for path in (workshop.output / "names.jsonl").iterdir()] == ["before"]
    monkeypatch.undo()
    result = step(workshop)()
    assert rows(result) == EXPECTED
    assert len(workshop.invocations()) == 10


def test_a_flow_process_that_is_killed_leaves_the_earlier_result_or_the_new_one(driver):
    """At write boundaries of the end of a run; the next start completes it, and leaves nothing beside it."""
    fields = {"append_row_max_file_size": 300, "seconds": 0}
    last = driver.run(**fields)[1]["boundaries"]
    new = {path.name: path.read_bytes() for path in driver.result.iterdir()}
    assert len(new) > 2
    for boundary in range(last - 6, last + 1, 3):
        driver.output = driver.workshop.folder / f"driven{boundary}"
        driver.result.mkdir(parents=True)
        old = {"part-00000.txt": b"before"}
        (driver.result / "part-00000.txt").write_bytes(b"before")
        status, _ = driver.run(boundary, **fields)
        assert status in (-signal.SIGKILL, 0)  # the number of commits depends on the order in which leases return
        assert {path.name: path.read_bytes() for path in driver.result.iterdir()} in (old, new)
        assert driver.run(**fields)[0] == 0
        assert {path.name: path.read_bytes() for path in driver.result.iterdir()} == new
        assert sorted(path.name for path in driver.output.iterdir()) == ["_parallel_run", "parallel_run_step.txt"]
        assert main(["verify", str(driver.runs[-1])]) == 0
