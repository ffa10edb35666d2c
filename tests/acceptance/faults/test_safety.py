"""Secrets stay secret, nothing hostile is obeyed, and what the disk refuses is named."""

import os
import pickle
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from prefect import flow

from prefect_parallel_run import LimitExceededError, OutputError
from prefect_parallel_run._threads import begin
from prefect_parallel_run.cli import main

from ..conftest import prefect_wrote, read, wait_until
from .conftest import ledger

CANARY = "canary-48151623"


def test_a_secret_is_found_nowhere(workshop, caplog):
    """Not in logs, ledger, receipts, artifacts, Prefect's database, tracebacks: every byte written is searched."""
    step = workshop.step("tells.py", environment_variables={"TOKEN_FOR_TEST": CANARY}, error_threshold=0, run_max_try=2)

    @flow
    def secret():
        return step()

    with pytest.raises(LimitExceededError) as caught:
        secret()
    assert "cannot log in with ***" in str(caught.value)
    wait_until(lambda: prefect_wrote(b"cannot log in with ***"))
    assert not prefect_wrote(CANARY.encode())
    assert not [path for path in workshop.output.rglob("*") if CANARY.encode() in read(path)]
    assert CANARY not in caplog.text
    assert CANARY not in repr(step)
    assert "***" in "".join(row[0] for row in ledger(caught.value.run_directory, "SELECT traceback FROM attempts"))


def test_a_hostile_pickle_in_a_run_directory_is_never_loaded(workshop, capsys):
    """Each file of it in turn replaced by one that would leave a mark; every command says what is wrong, or ignores it."""
    with pytest.raises(LimitExceededError) as caught:
        workshop.step("poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=9)()
    run = Path(caught.value.run_directory)
    mark = workshop.folder / "mark"

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    saved = workshop.folder / "saved"
    shutil.copytree(run, saved)
    for path in sorted(path for path in saved.rglob("*") if path.is_file()):
        (run / path.relative_to(saved)).write_bytes(pickle.dumps(Hostile()))
        for command in (["verify"], ["show"], ["resume", "--error-threshold", "10"]):
            assert main([command[0], str(run), *command[1:]]) in (0, 1, 2)
        assert not mark.exists(), path
        shutil.rmtree(run)
        shutil.copytree(saved, run)
    capsys.readouterr()


def test_a_link_in_place_of_a_part_is_not_followed(workshop, capsys):
    """Bytes from outside of the run directory are never published."""
    step = workshop.step(
        "poison.py", "--how", "raise", "--poison", "3", run_max_try=1, error_threshold=9, process_count_per_node=1
    )
    with pytest.raises(LimitExceededError) as caught:
        step()
    run = Path(caught.value.run_directory)
    (part,) = (run / "parts").iterdir()
    shutil.move(part, workshop.folder / "elsewhere")
    part.symlink_to(workshop.folder / "elsewhere")
    assert main(["resume", str(run), "--error-threshold", "10"]) == 1
    assert "Too many levels of symbolic links" in capsys.readouterr().err
    assert not (workshop.output / "parallel_run_step.txt").exists()


def test_a_script_that_starts_in_some_processes_only_is_used_there(workshop, caplog):
    """With a warning; everything is run."""
    gate = workshop.folder / "open"
    arguments = ("--log", str(workshop.log), "--claim", str(workshop.folder / "claim"), "--open", str(gate))
    run = begin(workshop.step("starts_sometimes.py", *arguments, node_count=2, mini_batch_size=1))
    try:
        wait_until(lambda: "could not start the entry script (init): FileExistsError" in caplog.text)
    finally:
        gate.touch()
    assert run.result(600).items_succeeded == 100


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    wait_until(lambda: subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(workshop, small_disk, capsys):
    """The ledger stays intact, and nothing is published."""
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 700_000)
    step = workshop.step("long_rows.py", output=small_disk, run_max_try=1, error_threshold=0, process_count_per_node=1)
    with pytest.raises((OutputError, LimitExceededError), match=r"No space left|disk is full"):
        step()
    run = next((small_disk / "_parallel_run").glob("test-*"))
    assert ledger(run, "PRAGMA integrity_check") == [("ok",)]
    assert not (small_disk / "parallel_run_step.txt").exists()
    filler.unlink()
    assert main(["resume", str(run), "--retry-failed"]) == 0
    assert (small_disk / "parallel_run_step.txt").stat().st_size == 100 * 3_001
    assert main(["verify", str(run)]) == 0
    capsys.readouterr()


def test_an_output_folder_that_is_removed_meanwhile(workshop):
    """The run fails with that as its reason, in a bounded time."""
    step = workshop.step("slow.py", "--sleep", "0.2", "--doors", "8", mini_batch_size=2, run_max_try=1)

    def remove():
        try:
            wait_until(lambda: len(workshop.invocations()) >= 4)
            shutil.rmtree(workshop.output, ignore_errors=True)
        finally:
            workshop.open_door(8)

    remover = threading.Thread(target=remove)
    remover.start()
    with pytest.raises(OutputError):
        step()
    remover.join()
    assert not (workshop.output / "parallel_run_step.txt").exists()


def test_log_lines_cannot_play_tricks_on_a_terminal(workshop, caplog):
    """Escape sequences of a script's error are shown, not obeyed."""
    with pytest.raises(LimitExceededError):
        workshop.step("escapes.py", error_threshold=0, run_max_try=1)()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("prefect.task_runs")]
    assert any("\\x1b[2J gone?" in line for line in told)
