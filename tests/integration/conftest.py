"""One real part at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from prefect_parallel_run import FileDataset
from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node import child_startup, node_log
from prefect_parallel_run.node import slot as slot_module
from prefect_parallel_run.node.child_process import Child
from prefect_parallel_run.node.child_startup import ChildFactory, StandbyChild, StandbyNeed, Startup
from prefect_parallel_run.node.node_log import ProcessLog
from prefect_parallel_run.node.settings import (
    InterpreterSettings,
    ItemSettings,
    NodeOptions,
    NodeSettings,
    ProcessLimits,
    RowSettings,
    RunContext,
    ScriptSettings,
)
from prefect_parallel_run.node.slot import RecallRequest, Slot, Work
from prefect_parallel_run.planning.inputs import normalize_inputs
from prefect_parallel_run.planning.plan import Plan

from ..plans import write_plan

CHANGES = {  #: settings that tests call otherwise
    "node": (NodeOptions, "name"),
    "interpreter": (InterpreterSettings, "source"),
    "environment": (InterpreterSettings, "source"),
    "environment_variables": (InterpreterSettings, "variables"),
    "keep_rows": (RowSettings, "keep"),
    "row_format": (RowSettings, "format"),
    "row_header": (RowSettings, "header"),
    "row_options": (RowSettings, "csv_options"),
    "input_columns": (RowSettings, "input_columns"),
    "process_memory_limit": (ProcessLimits, "memory"),
}


def wait_until(fact, seconds=300.0):
    """Wait for an event, with a generous bound."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(0.01)


def seconds_since(hangs: Callable[[], bool], mini_batch: int) -> Callable[[int], float]:
    """Return a function for ``running_for``: *mini_batch* takes time from when it *hangs*, and the others take none."""
    since: list[float] = []

    def seconds(running: int) -> float:
        if running != mini_batch or not hangs():
            return 0.0
        since.append(time.monotonic())
        return since[-1] - since[0]

    return seconds


def worker_counts_of_eight(target) -> list[int]:
    """Open eight clusters of one node at the same time, from threads; return the number of workers of each."""
    barrier = threading.Barrier(8)

    def open_one(_) -> int:
        barrier.wait()
        request = Request(nodes=1, at_least=None, slots=1, timeout=120)
        with target.open(request, threading.Event(), Future()) as cluster:
            return len(cluster.client.nthreads())

    with ThreadPoolExecutor(8) as executor:
        return list(executor.map(open_one, range(8)))


class Bench:
    """A run directory, a plan of small files, and slots that run an entry script over it."""

    def __init__(self, folder: Path, scripts: Path) -> None:
        self.folder, self.scripts = folder, scripts
        self.run = folder / "run"
        for name in ("logs", "parts"):
            (self.run / name).mkdir(parents=True)
        self.log = folder / "invocations.txt"
        self._slots: list[Slot] = []
        self._standbys: list[StandbyChild] = []

    def works(self, files: Path, size: int = 10) -> list[bytes]:
        write_plan(normalize_inputs([FileDataset.from_files(files).as_named_input("images")]), size, self.run / "plan.parquet")
        plan = Plan(self.run / "plan.parquet")
        return [text.encode() for text in plan.works(0, plan.summary.mini_batches)]

    def settings(self, script: str, *arguments: str, **changes) -> NodeSettings:
        path = Path(script) if "/" in script else self.scripts / script
        groups: dict[type, dict[str, object]] = {
            NodeOptions: {"name": "node-0", "slots": 1, "most_slots": 1},
            RunContext: {"execution": 1, "directory": str(self.run)},
            InterpreterSettings: {},
            ScriptSettings: {
                "path": str(path),
                "source": str(changes.pop("source", path.parent)),
                "arguments": arguments,
                "output": str(self.folder / "out"),
                "logging_level": "INFO",
            },
            ItemSettings: {},
            RowSettings: {"keep": True, "format": "text"},
            ProcessLimits: {"run_invocation_timeout": 60.0, "init_timeout": 60.0},
        }
        token = changes.pop("token", "token")
        for name, value in changes.items():
            group, field = CHANGES.get(name) or next(
                (kind, name) for kind in groups if name in (field.name for field in fields(kind))
            )
            groups[group][field] = value
        node, run, interpreter, script, items, rows, limits = (kind(**values) for kind, values in groups.items())
        return NodeSettings(
            token=token, node=node, run=run, interpreter=interpreter, script=script, items=items, rows=rows, limits=limits
        )

    def slot(self, script: str, *arguments: str, **changes) -> Slot:
        settings = self.settings(script, *arguments, **changes)
        variables = {**settings.interpreter.variables, "AZUREML_BI_OUTPUT_PATH": settings.script.output}
        environment = {**os.environ, **variables}
        factory = ChildFactory(settings, lambda: environment, str(self.folder), ProcessLog())
        standby = StandbyChild(factory, StandbyNeed(settings.limits.run_invocation_timeout))
        slot = Slot(0, settings, factory, standby)
        self._slots.append(slot)
        self._standbys.append(standby)
        return slot

    def attempt(
        self, slot: Slot, works: list[bytes], attempt: int = 1, first: int = 0, recall: RecallRequest | None = None
    ) -> list[Receipt]:
        receipts: list[tuple] = []
        lines = [Work(i, attempt, b"[%d,%d,%b]\n" % (i, attempt, work)) for i, work in enumerate(works, first)]
        slot.run(lines, receipts, recall or RecallRequest())
        return [Receipt(*receipt) for receipt in receipts]

    def rows(self, receipts: list[Receipt]) -> list[str]:
        """Rows of the mini-batches that succeeded, as they stand in the part."""
        found: list[str] = []
        for receipt in receipts:
            if receipt.part:
                data = (self.run / "parts" / receipt.part).read_bytes()
                found += data[receipt.offset : receipt.offset + receipt.length].decode().splitlines()
        return found

    def invocations(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith("run ")]

    def close(self) -> None:
        for slot in self._slots:
            slot.stop()
            slot._discard_child("stopped")
        for standby in self._standbys:
            standby.stop()


@pytest.fixture
def running_for(monkeypatch):
    """Lets a test say for how long a mini-batch has been running, s: ``running_for(function of its number)``.

    So exactly the mini-batches time out that the test lets hang, and only once they do, however slow the machine is.
    """
    running = Child.running

    def install(seconds):
        def of_child(child):
            mini_batch, _ = running(child)
            return mini_batch, time.monotonic() - seconds(mini_batch)

        monkeypatch.setattr(Child, "running", of_child)

    return install


@pytest.fixture
def starting_for(monkeypatch):
    """Lets a test say which starts of children exceed init_timeout: ``starting_for(predicate of a Startup)``."""

    def install(is_exceeded):
        timeout = property(lambda startup: 0.0 if is_exceeded(startup) else 3600.0, lambda *_: None)
        monkeypatch.setattr(Startup, "_init_timeout", timeout, raising=False)

    return install


@pytest.fixture
def bench(tmp_path, scripts, monkeypatch):
    monkeypatch.setattr(node_log, "_PATIENCE", 300.0)  # tests read the logs of a closed node, however slow the disk is
    monkeypatch.setattr(slot_module, "_EXIT_GRACE", 300.0)  # tests check how children exit by themselves
    monkeypatch.setattr(child_startup, "_ANSWER_TIMEOUT", 60.0)  # tests wait for a standby child, however busy the machine is
    made = Bench(tmp_path, scripts)
    yield made
    made.close()
