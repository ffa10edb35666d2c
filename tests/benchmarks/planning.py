"""How long it takes to list and plan many files, in how much memory, and when the first of them are run.

    python tests/benchmarks/planning.py [--files 1000000] [--folders 1] [--folder DIR] [--json FILE]

Empty files are made in the folder (a temporary one by default; ten million take minutes, those that are there are used again),
shared out among the folders. Two processes of their own measure: one plans them, ten to a mini-batch, and nothing else; one
runs a step over them whose run() does nothing, with two processes, and tells from its ledger when the first mini-batch began.
The time of the bare listing (scandir and stat of every file, nothing kept) is the limit that the planning is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = "def run(mini_batch):\n    return mini_batch\n"


def make_files(place: Path, files: int, folders: int) -> None:
    """Make as many files as are not there."""
    for number in range(folders):
        folder = place / f"d{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        there = sum(1 for _ in os.scandir(folder))
        descriptor = os.open(folder, os.O_RDONLY)
        for index in range(there, files // folders):
            os.mknod(f"f{index:08d}", 0o100644, dir_fd=descriptor)
        os.close(descriptor)


def peak() -> float:
    """Return what this process has held at most, MB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def list_bare(place: Path) -> dict[str, float]:
    began = time.perf_counter()
    for folder, _, names in os.walk(place):
        for name in names:
            os.stat(f"{folder}/{name}")
    return {"seconds": time.perf_counter() - began}


def plan(place: Path, scratch: Path) -> dict[str, float]:
    from prefect_parallel_run import FileDataset
    from prefect_parallel_run.planning import normalise_inputs, write_plan

    datasets = normalise_inputs([FileDataset.from_files(place)])
    write_plan(
        normalise_inputs([FileDataset.from_files(__file__)]), 10, scratch / "one.parquet"
    )  # imports, and what is made once
    before, began = peak(), time.perf_counter()
    summary = write_plan(datasets, 10, scratch / "plan.parquet")
    return {
        "seconds": time.perf_counter() - began,
        "mini_batches": summary.mini_batches,
        "mb_before": before,
        "mb_at_most": peak(),
    }


def run(place: Path, scratch: Path) -> dict[str, float]:
    from prefect.testing.utilities import prefect_test_harness

    from prefect_parallel_run import ParallelRunConfig, ParallelRunStep

    (scratch / "noop.py").write_text(SCRIPT)
    config = ParallelRunConfig(
        entry_script=str(scratch / "noop.py"),
        error_threshold=0,
        output_action="summary_only",
        mini_batch_size=10,
        node_count=1,
        process_count_per_node=2,
    )
    with prefect_test_harness(server_startup_timeout=180):
        ParallelRunStep("warm", config, inputs=__file__, output=scratch / "warm")()  # imports, and what is made once
        before, called = peak(), time.time()
        result = ParallelRunStep("planning", config, inputs=place, output=scratch / "out")()
        seconds = time.time() - called
    ledger = sqlite3.connect(Path(result.run_directory, "ledger.sqlite"))
    (first,) = ledger.execute("SELECT MIN(started) FROM attempts").fetchone()
    ledger.close()
    return {"to_first_run": first - called, "seconds": seconds, "mb_before": before, "mb_at_most": peak()}


PARTS = {"list": lambda place, _: list_bare(place), "plan": plan, "run": run}


def measure(part: str, place: Path, scratch: Path) -> dict[str, float]:
    """Return what one part says of itself, from a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(place), "--scratch", str(scratch)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return json.loads(said)


def show(files: int, found: dict[str, dict[str, float]]) -> None:
    bare, planned, step = found["list"], found["plan"], found["run"]
    print(f"| {files} files, {planned['mini_batches']} mini-batches | s | ÷ bare listing | MB at most (before) |")
    print("|---|---|---|---|")
    print(f"| bare listing | {bare['seconds']:.1f} | 1.00 | |")
    memory = f"{planned['mb_at_most']:.0f} ({planned['mb_before']:.0f})"
    print(f"| planning alone | {planned['seconds']:.1f} | {planned['seconds'] / bare['seconds']:.2f} | {memory} |")
    print(f"| a step, to its first run() | {step['to_first_run']:.1f} | {step['to_first_run'] / bare['seconds']:.2f} | |")
    memory = f"{step['mb_at_most']:.0f} ({step['mb_before']:.0f})"
    print(f"| a step, to its result | {step['seconds']:.1f} | {step['seconds'] / bare['seconds']:.2f} | {memory} |")


def main() -> None:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part is not None:
        print(json.dumps(PARTS[given.part](given.folder, given.scratch)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PREFECT_HOME"] = f"{scratch}/prefect"
        place = given.folder or Path(scratch, "files")
        make_files(place, given.files, given.folders)
        found = {part: measure(part, place, Path(scratch)) for part in PARTS}
    show(given.files, found)
    if given.json is not None:
        given.json.write_text(json.dumps({"files": given.files, **found}, indent=2))


if __name__ == "__main__":
    main()
