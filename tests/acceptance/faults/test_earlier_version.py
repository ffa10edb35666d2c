"""A run that an earlier version left half done is resumed: the names and formats in a run directory are API."""

import os
import shutil
from pathlib import Path

import pytest

from prefect_parallel_run.cli import main

from .conftest import ledger

RECORDED = Path(__file__).parents[2] / "data" / "interrupted_runs"
WHERE = Path("/tmp/prefect_parallel_run_0_1")  #: the paths in the recorded runs begin with it
MODIFIED = 1_767_225_600  #: 2026-01-01 00:00:00 UTC, s; of every input when the runs were planned


@pytest.fixture
def interrupted():
    """The recorded runs where they were made, their scripts free to end."""
    shutil.rmtree(WHERE, ignore_errors=True)
    shutil.copytree(RECORDED, WHERE)
    for path in (WHERE / "table.csv", *(WHERE / "files").iterdir()):
        os.utime(path, (MODIFIED, MODIFIED))
    (WHERE / "gate").touch()
    yield WHERE
    shutil.rmtree(WHERE)


def run_directory(interrupted, step):
    (directory,) = (interrupted / "out" / "_parallel_run").glob(f"{step}-*")
    return directory


def test_an_earlier_versions_file_run_resumes(interrupted):
    """What succeeded or failed before the upgrade stays so; only the rest runs."""
    directory = run_directory(interrupted, "names")
    assert main(["resume", str(directory)]) == 0
    lines = [f"line {number:02d}\n" for number in range(16) if number not in (4, 5)]
    assert (interrupted / "out" / "parallel_run_step.txt").read_text() == "".join(lines)
    attempts = ledger(directory, "SELECT mini_batch, attempts FROM mini_batches ORDER BY mini_batch")
    assert attempts == [(number, 2 if number == 2 else 1) for number in range(8)]
    assert main(["verify", str(directory)]) == 0


def test_an_earlier_versions_table_run_resumes(interrupted):
    """Rows written before and after the upgrade make one table, with one header."""
    directory = run_directory(interrupted, "sums")
    assert main(["resume", str(directory)]) == 0
    rows = [f"{number},{3 * number},row {number:04d},{4 * number}\n" for number in range(300)]
    assert (interrupted / "out" / "sums.csv").read_text() == "a,b,name,total\n" + "".join(rows)
    assert ledger(directory, "SELECT DISTINCT state, attempts FROM mini_batches") == [("succeeded", 1)]
    assert main(["verify", str(directory)]) == 0
