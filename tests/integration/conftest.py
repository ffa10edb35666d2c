"""One real part at a time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from prefect_parallel_run import FileDataset
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.child_startup import ChildFactory
from prefect_parallel_run.node.node_log import ProcessLog
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.slot import RecallRequest, Slot, Work
from prefect_parallel_run.node.standby import StandbyChild, StandbyNeed
from prefect_parallel_run.planning.inputs import normalise_inputs
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import write_plan


def wait_until(fact, seconds=60.0):
    """Wait for an event, with a generous bound."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(0.01)


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
        write_plan(normalise_inputs([FileDataset.from_files(files).as_named_input("images")]), size, self.run / "plan.parquet")
        plan = Plan.open(self.run / "plan.parquet")
        return [text.encode() for text in plan.works(0, plan.summary.mini_batches)]

    def settings(self, script: str, *arguments: str, **changes) -> NodeSettings:
        path = Path(script) if "/" in script else self.scripts / script
        given = {
            "token": "token",
            "node": "node-0",
            "drive": 1,
            "slots": 1,
            "most_slots": 1,
            "interpreter": None,
            "script": str(path),
            "source": str(changes.pop("source", path.parent)),
            "arguments": arguments,
            "output": str(self.folder / "out"),
            "side_inputs": {},
            "environment_variables": {},
            "run_directory": str(self.run),
            "modules": (),
            "fetches": False,
            "keep_rows": True,
            "row_format": "text",
            "row_header": False,
            "logging_level": "INFO",
            "run_invocation_timeout": 60.0,
            "init_timeout": 60.0,
            "process_memory_limit": None,
        }
        return NodeSettings(**{**given, **changes})

    def slot(self, script: str, *arguments: str, **changes) -> Slot:
        settings = self.settings(script, *arguments, **changes)
        environment = {**os.environ, **settings.environment_variables, "AZUREML_BI_OUTPUT_PATH": settings.output}
        factory = ChildFactory(
            settings, environment, changes.get("interpreter") or sys.executable, str(self.folder), ProcessLog()
        )
        standby = StandbyChild(factory, StandbyNeed(settings.run_invocation_timeout))
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
        return [line for line in self.log.read_text().splitlines() if line.startswith("run ")]

    def close(self) -> None:
        for slot in self._slots:
            slot.stop()
            slot._discard_child("stopped")
        for standby in self._standbys:
            standby.stop()


@pytest.fixture
def bench(tmp_path, scripts):
    made = Bench(tmp_path, scripts)
    yield made
    made.close()
