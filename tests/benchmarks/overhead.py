"""What a mini-batch costs beside its own work, when the first one begins, and what the flow process holds.

    python tests/benchmarks/overhead.py [--mini-batches 10000] [--rounds 3] [--json FILE]

Everything is measured in one run on one machine, we and the peers in turn: only the ratios mean anything. Every engine gets
the same function (10 paths in, 10 short texts out), two processes, and leaves one file with all rows in order. The peers'
clock starts with pool or cluster open and the paths ready, and ends with the file written. Ours starts with the first run()
and ends with the step's result: running, timing, counting, committing and publishing. Planning, which lists the files with
their sizes and times while the cluster opens, stands in a row of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

OURS = "prefect_parallel_run"
FILES_PER_MINI_BATCH = 10
SCRIPT = "import os\n\n\ndef run(mini_batch):\n    return [os.path.basename(path) for path in mini_batch]\n"


def no_op(mini_batch):
    """The function that all engines run."""
    return [os.path.basename(path) for path in mini_batch]


def make_files(folder: Path, number: int) -> Path:
    folder.mkdir()
    for index in range(number):
        os.close(os.open(folder / f"{index:07d}", os.O_CREAT | os.O_WRONLY))
    return folder


def mini_batches(folder: Path) -> list[list[str]]:
    paths = sorted(entry.path for entry in os.scandir(folder))
    return [paths[start : start + FILES_PER_MINI_BATCH] for start in range(0, len(paths), FILES_PER_MINI_BATCH)]


def write(results, path: Path) -> None:
    with path.open("w") as file:
        for rows in results:
            file.write("\n".join(rows) + "\n")


def pool(work: list[list[str]], chunk: int, path: Path) -> float:
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        workers.map(no_op, work[:2])
        began = time.perf_counter()
        write(workers.imap(no_op, work, chunksize=chunk), path)
        return time.perf_counter() - began


def client_map(work: list[list[str]], path: Path) -> float:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(no_op, work[:2]))
        began = time.perf_counter()
        write(client.gather(client.map(no_op, work, pure=False)), path)
        return time.perf_counter() - began


def step(place: Path, inputs: Path, size: int = FILES_PER_MINI_BATCH, **fields):
    from prefect_parallel_run import ParallelRunConfig, ParallelRunStep

    config = ParallelRunConfig(
        entry_script=str(place / "noop.py"),
        error_threshold=0,
        output_action="append_row",
        mini_batch_size=size,
        node_count=2,
        process_count_per_node=1,
        **fields,
    )
    return ParallelRunStep("overhead", config, inputs=inputs, output=place / "out", allow_reuse=False)


class Seconds(NamedTuple):
    """What one step took."""

    working: float  #: from its first run() to its result
    planning: float
    to_first_run: float  #: from its call


def ours(place: Path, inputs: Path) -> Seconds:
    """Run one step."""
    from prefect_parallel_run import FileDataset
    from prefect_parallel_run.planning import normalise_inputs, write_plan

    began = time.perf_counter()
    write_plan(normalise_inputs([FileDataset.from_files(inputs)]), FILES_PER_MINI_BATCH, place / "plan.parquet")
    planning = time.perf_counter() - began
    called = time.time()
    result = step(place, inputs)()
    ended = time.time()
    ledger = sqlite3.connect(Path(result.run_directory, "ledger.sqlite"))
    (first,) = ledger.execute("SELECT MIN(started) FROM attempts").fetchone()
    ledger.close()
    return Seconds(ended - first, planning, first - called)


def peak_memory(place: Path, number: int) -> dict[str, float]:
    """Return what a flow process of its own held at most, MB, before and after a step with *number* mini-batches."""
    inputs = make_files(place / f"m{number}", number)
    command = [sys.executable, __file__, "--hold", str(inputs), str(place)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return json.loads(said)


def hold(inputs: Path, place: Path) -> None:
    """Run one step in this process and print its peak memory."""
    from prefect.testing.utilities import prefect_test_harness

    def peak() -> float:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    with prefect_test_harness(server_startup_timeout=180):
        step(place, place / "one")()  # imports, and what is made once
        before = peak()
        step(place, inputs, size=1)()
    print(json.dumps({"before": before, "after": peak()}))


def measure(number: int, rounds: int, place: Path) -> dict:
    from prefect.testing.utilities import prefect_test_harness

    (place / "noop.py").write_text(SCRIPT)
    inputs = make_files(place / "all", number * FILES_PER_MINI_BATCH)
    one = make_files(place / "one", FILES_PER_MINI_BATCH)
    work = mini_batches(inputs)
    figures: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        figures.setdefault(name, []).append(1e6 * seconds / number)

    starts = []
    expected = None
    with prefect_test_harness(server_startup_timeout=180):
        ours(place, one)
        for _ in range(rounds):
            note("multiprocessing.Pool.imap, chunk 1", pool(work, 1, place / "pool.txt"))
            note("multiprocessing.Pool.imap, chunk 100", pool(work, 100, place / "pool.txt"))
            starts.append(ours(place, one).to_first_run)
            seconds = ours(place, inputs)
            note(OURS, seconds.working)
            note("our planning, beforehand", seconds.planning)
            note("distributed Client.map", client_map(work, place / "map.txt"))
            expected = (place / "pool.txt").read_bytes()
            assert (place / "map.txt").read_bytes() == expected
            assert (place / "out" / "parallel_run_step.txt").read_bytes() == expected
    memory = {str(count): peak_memory(place, count) for count in (1_000, 100_000)}
    return {"mini_batches": number, "microseconds": figures, "first_run_seconds": starts, "memory_mb": memory}


def show(found: dict) -> None:
    mean = {name: statistics.median(values) for name, values in found["microseconds"].items()}
    mine = mean[OURS]
    print(f"| {found['mini_batches']} mini-batches of {FILES_PER_MINI_BATCH} paths | µs each: median (min to max) | ÷ ours |")
    print("|---|---|---|")
    for name, values in found["microseconds"].items():
        print(f"| {name} | {mean[name]:.0f} ({min(values):.0f} to {max(values):.0f}) | {mean[name] / mine:.2f} |")
    starts = found["first_run_seconds"]
    print(f"\nfrom step() to the first run(): {statistics.median(starts):.2f} s ({min(starts):.2f} to {max(starts):.2f})")
    for count, memory in found["memory_mb"].items():
        print(f"flow process at {count} mini-batches: {memory['after']:.0f} MB at most, {memory['before']:.0f} MB before")


def main() -> None:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    if sys.argv[1:2] == ["--hold"]:
        hold(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--mini-batches", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        found = measure(given.mini_batches, given.rounds, Path(folder))
    show(found)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
