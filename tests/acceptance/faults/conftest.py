"""Runs that are killed, and what is left of them."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ours, wait_until

ROOT = Path(__file__).parents[3]
IN_FULL = os.environ.get("FAULTS_IN_FULL") == "1"


def ledger(run_directory, query):
    connection = sqlite3.connect(Path(run_directory, "ledger.sqlite"))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def report(fault: str, **figures) -> None:
    """Append what was measured to the file FAULTS_REPORT names, one JSON object per fault."""
    if path := os.environ.get("FAULTS_REPORT"):
        with open(path, "a") as file:
            file.write(json.dumps({"fault": fault, **figures}) + "\n")


class Started(subprocess.Popen):
    """Is not waited for when the test has failed meanwhile: it might go on for ever."""

    def __exit__(self, kind, *rest):
        if kind is not None:
            self.kill()
        return super().__exit__(kind, *rest)


class Driver:
    """Starts driver.py over the workshop's files."""

    def __init__(self, workshop):
        self.workshop = workshop
        self.output = workshop.folder / "driven"

    def start(self, boundary=None, seconds=0.02, **config):
        command = [sys.executable, str(Path(__file__).with_name("driver.py"))]
        command += [str(self.workshop.files), str(self.output), str(self.workshop.log), str(seconds)]
        command += [] if boundary is None else [str(boundary)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "DRIVER_CONFIG": json.dumps(config)}
        return Started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def run(self, boundary=None, **options):
        """Return the exit status and what was printed."""
        with self.start(boundary, **options) as process:
            out, err = process.communicate(timeout=600)
        assert process.returncode in (0, -9), err
        return process.returncode, json.loads(out) if out else None

    @property
    def runs(self):
        return sorted(path.parent for path in (self.output / "_parallel_run").glob("*/run.json"))

    @property
    def result(self):
        return self.output / "parallel_run_step.txt"


@pytest.fixture
def driver(workshop):
    return Driver(workshop)


@pytest.fixture(autouse=True)
def all_is_gone():
    yield
    wait_until(lambda: not ours())
