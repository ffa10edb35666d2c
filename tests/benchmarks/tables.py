"""How fast rows of a table go through a cheap run() into one file, and in how much memory, beside what people write by hand.

    python tests/benchmarks/tables.py [--megabytes 1000] [--csv-megabytes 500] [--rounds 3] [--folder DIR] [--json FILE]

A Parquet file and a CSV of 20 numeric columns and 2 texts are made in the folder (a temporary one by default; those that are
there already are used again). Every engine gets the same function (a DataFrame in, id and score of every row out), two cores,
mini-batches of 1 and 10 MB of source, and leaves one file with all rows. Everything is measured in one run on one machine, in
turn, every engine in a process of its own: only the ratios mean anything. The peers' clock starts with pool or cluster open
and libraries imported, and ends with the file written. Ours starts with the first run(), in children that have imported the
same libraries with their script, and ends with the step's result: running, committing and publishing. Planning, which goes on
while the cluster opens, stands in a row of its own.

Memory of the peers is that of all their processes at one moment; ours is given for the same, without the Prefect server, and
for the largest child alone. Ray's is left out where it is not installed. The rows of every engine are compared with those that
pandas writes when it reads the file from front to back: ours must be the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import inspect
import json
import logging
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OURS = "prefect_parallel_run"
FLOATS, INTEGERS = 14, 5  #: and an id: 20 numeric columns
GROUP = 128 << 10  #: rows in a row group
SCRIPT = """import pandas
import pyarrow.compute
import pyarrow.parquet


def run(mini_batch):
    return score(mini_batch)


"""
AS_TEXT = {"sep": " ", "header": False, "index": False, "lineterminator": "\n"}


def score(frame):
    """The function that all engines run: column by column, so that the sums do not depend on the mini-batch."""
    import pandas as pd

    total = frame["x00"] * 0.5
    for place in range(1, 14):
        total = total + frame[f"x{place:02d}"] * (place + 0.5)
    return pd.DataFrame({"id": frame["id"], "score": total})


@dataclass(frozen=True)
class Task:
    """What an engine is to do."""

    source: Path
    size: int  #: bytes in a mini-batch
    rows: int  #: about as many
    place: Path  #: an empty folder for whatever it leaves

    @property
    def is_parquet(self) -> bool:
        return self.source.suffix == ".parquet"

    @property
    def target(self) -> Path:
        return self.place / "rows.txt"


# ---- the source ----


def tables(digits: int | None) -> Iterator:
    """Yield row groups without end, the same ones every time."""
    import numpy as np
    import pyarrow as pa

    for group in range(1 << 30):
        random = np.random.default_rng(group)
        ids = np.arange(group * GROUP, (group + 1) * GROUP)
        columns = {"id": ids}
        for place in range(FLOATS):
            numbers = random.random(GROUP)
            columns[f"x{place:02d}"] = numbers if digits is None else numbers.round(digits)
        for place in range(INTEGERS):
            columns[f"n{place}"] = random.integers(0, 1_000_000, GROUP)
        columns["name"] = [f"item {number}" for number in ids.tolist()]
        columns["label"] = np.array(["red", "green", "blue", "dark blue"], object)[random.integers(0, 4, GROUP)]
        yield pa.table(columns)


def make_parquet(path: Path, megabytes: int) -> None:
    import pyarrow.parquet as pq

    groups = tables(None)
    first = next(groups)
    beside = path.with_suffix(".part")
    with beside.open("wb") as sink, pq.ParquetWriter(sink, first.schema, compression="none", use_dictionary=["label"]) as file:
        file.write_table(first, row_group_size=GROUP)
        while sink.tell() < megabytes * 1_000_000:
            file.write_table(next(groups), row_group_size=GROUP)
    beside.rename(path)


def make_csv(path: Path, megabytes: int) -> None:
    import pyarrow.csv as pcsv

    beside = path.with_suffix(".part")
    with beside.open("wb") as sink:
        for number, table in enumerate(tables(6)):
            pcsv.write_csv(table, sink, pcsv.WriteOptions(include_header=number == 0, quoting_style="none"))
            if sink.tell() >= megabytes * 1_000_000:
                break
    beside.rename(path)


def write_expected(source: Path, path: Path) -> int:
    """Write what pandas makes of the whole file and return the number of rows; leaves the source in the page cache."""
    import pandas as pd
    import pyarrow.parquet as pq

    if source.suffix == ".parquet":
        frames = (batch.to_pandas() for batch in pq.ParquetFile(source).iter_batches(GROUP))
    else:
        frames = pd.read_csv(source, chunksize=GROUP)
    rows = 0
    with path.open("w", newline="") as file:
        for frame in frames:
            score(frame).to_csv(file, **AS_TEXT)
            rows += len(frame)
    return rows


def check(task: Task, expected: Path, *, to_the_byte: bool) -> bool:
    """Return whether the engine's file has the bytes of *expected*; raise where it has not even its rows."""
    import numpy as np
    import pyarrow.csv as pcsv

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else file.read()

    def rows(path: Path):
        read = pcsv.ReadOptions(column_names=["id", "score"])
        return pcsv.read_csv(path, read, pcsv.ParseOptions(delimiter=" ")).sort_by("id")

    if digest(task.target) == digest(expected):
        return True
    assert not to_the_byte, "other bytes than those of pandas"
    found, wanted = rows(task.target), rows(expected)
    assert found["id"].equals(wanted["id"])
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-12)  # readers of CSV differ in the last digit
    return False


# ---- the engines: each returns seconds ----


def arrow_alone(task: Task) -> dict:
    """One process with two threads, without pandas."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pcsv
    import pyarrow.parquet as pq

    pa.set_cpu_count(2)
    schema = pa.schema({"id": pa.int64(), "score": pa.float64()})
    began = time.perf_counter()
    with contextlib.ExitStack() as opened:
        if task.is_parquet:
            batches = opened.enter_context(pq.ParquetFile(task.source)).iter_batches(task.rows)
        else:
            batches = opened.enter_context(pcsv.open_csv(task.source, pcsv.ReadOptions(block_size=task.size)))
        file = opened.enter_context(pcsv.CSVWriter(task.target, schema, **arrow_as_text()))
        for batch in batches:
            total = pc.multiply(batch["x00"], 0.5)
            for place in range(1, FLOATS):
                total = pc.add(total, pc.multiply(batch[f"x{place:02d}"], place + 0.5))
            file.write_batch(pa.record_batch([batch["id"], total], schema=schema))
    return {"working": time.perf_counter() - began}


def bare_half(task: Task, half: int) -> Path:
    """One of two processes: its half of the source, mini-batch by mini-batch, to a part of its own."""
    part = task.place / f"part-{half}"
    with part.open("w", newline="") as file:
        for frame in (half_of_parquet if task.is_parquet else half_of_csv)(task, half):
            score(frame).to_csv(file, **AS_TEXT)
    return part


def half_of_parquet(task: Task, half: int) -> Iterator:
    import pyarrow.parquet as pq

    with pq.ParquetFile(task.source) as file:
        middle = file.num_row_groups // 2
        for number in range(*((0, middle) if half == 0 else (middle, file.num_row_groups))):
            table = file.read_row_group(number)
            for start in range(0, len(table), task.rows):
                yield table.slice(start, task.rows).to_pandas()


def half_of_csv(task: Task, half: int) -> Iterator:
    import io

    import pandas as pd

    names = list(pd.read_csv(task.source, nrows=0).columns)
    with task.source.open("rb") as file:
        file.readline()
        start = file.tell()
        file.seek(task.source.stat().st_size // 2)
        file.readline()
        stop = file.tell()
        if half == 0:
            file.seek(start)
        while half == 1 or file.tell() < stop:
            data = file.read(task.size if half == 1 else min(task.size, stop - file.tell()))
            if not data:
                return
            yield pd.read_csv(io.BytesIO(data + (b"" if data.endswith(b"\n") else file.readline())), names=names)


def import_all(_: object = None) -> None:
    import pandas as pd
    import pyarrow.parquet  # noqa: F401

    score(pd.DataFrame({"id": [1], **{f"x{place:02d}": [0.5] for place in range(FLOATS)}})).to_csv()


def concatenate(parts: list, target: Path) -> None:
    with target.open("wb") as file:
        for part in parts:
            with Path(part).open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)


def bare(task: Task) -> dict:
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        workers.map(import_all, range(2), chunksize=1)
        began = time.perf_counter()
        concatenate(workers.starmap(bare_half, [(task, 0), (task, 1)], chunksize=1), task.target)
        return {"working": time.perf_counter() - began}


def in_slices(frame, rows: int):
    """A partition of a Parquet file is a row group; run() gets mini-batches of it."""
    import pandas as pd

    return pd.concat([score(frame.iloc[start : start + rows]) for start in range(0, len(frame), rows)] or [score(frame)])


def dask_frame(task: Task) -> dict:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR) as cluster,
        Client(cluster) as client,
    ):
        client.run(import_all)
        began = time.perf_counter()
        meta = {"id": "int64", "score": "float64"}
        if task.is_parquet:
            frame = dd.read_parquet(task.source, split_row_groups=True).map_partitions(in_slices, task.rows, meta=meta)
        else:
            frame = dd.read_csv(task.source, blocksize=task.size).map_partitions(score, meta=meta)
        concatenate(frame.to_csv(str(task.place / "part-*.txt"), **AS_TEXT), task.target)
        return {"working": time.perf_counter() - began}


def arrow_as_text() -> dict:
    import pyarrow.csv as pcsv

    return {"write_options": pcsv.WriteOptions(include_header=False, delimiter=" ")}


def ray_data(task: Task) -> dict:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    ray.data.range(10).map_batches(lambda batch: import_all() or batch, batch_format="pandas").materialize()
    began = time.perf_counter()
    read = ray.data.read_parquet if task.is_parquet else ray.data.read_csv
    scored = read(str(task.source)).map_batches(score, batch_size=task.rows, batch_format="pandas")
    scored.write_csv(str(task.place / "parts"), arrow_csv_args_fn=arrow_as_text)
    concatenate(sorted((task.place / "parts").iterdir()), task.target)
    found = {"working": time.perf_counter() - began}
    ray.shutdown()
    return found


def ours(task: Task) -> dict:
    from prefect_parallel_run import ParallelRunConfig, ParallelRunStep, TabularDataset
    from prefect_parallel_run.planning import normalise_inputs, write_plan

    read = TabularDataset.from_parquet_files if task.is_parquet else TabularDataset.from_delimited_files
    inputs = read(task.source)
    (task.place / "scores.py").write_text(SCRIPT + inspect.getsource(score))
    config = ParallelRunConfig(
        entry_script=str(task.place / "scores.py"),
        error_threshold=0,
        output_action="append_row",
        append_row_file_name=task.target.name,
        append_row_format="text",
        mini_batch_size=task.size,
        node_count=1,
        process_count_per_node=2,
    )
    began = time.perf_counter()
    write_plan(normalise_inputs([inputs]), task.size, task.place / "plan.parquet")
    planning = time.perf_counter() - began
    result = ParallelRunStep("tables", config, inputs=inputs, output=task.place, allow_reuse=False)()
    ended = time.time()
    ledger = sqlite3.connect(Path(result.run_directory, "ledger.sqlite"))
    (first,) = ledger.execute("SELECT MIN(started) FROM attempts").fetchone()
    ledger.close()
    return {"working": ended - first, "planning": planning}


ENGINES = {
    "pyarrow alone, two threads": arrow_alone,
    "two bare processes": bare,
    "dask.dataframe, two workers": dask_frame,
    "Ray Data, two CPUs": ray_data,
    OURS: ours,
}


# ---- an engine in a process of its own, watched ----


class Memory:
    """Peak memory, in MB, of a process and all that came of it."""

    def __init__(self, root: int) -> None:
        self._family = {root}
        self.together = self.largest_child = 0.0

    def sample(self) -> None:
        """Look once; what the processes share in /dev/shm counts once."""
        parents = {int(entry.name): entry for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        resident = shared = 0
        for pid, entry in sorted(parents.items()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                if pid not in self._family and int(status["PPid"]) not in self._family:
                    continue
                self._family.add(pid)
                kilobytes = {key: int(status[key].split()[0]) for key in ("VmRSS", "RssShmem", "VmHWM") if key in status}
                resident += kilobytes.get("VmRSS", 0) - kilobytes.get("RssShmem", 0)
                shared = max(shared, kilobytes.get("RssShmem", 0))
                if b"prefect_parallel_run/child/__main__.py" in (entry / "cmdline").read_bytes():
                    self.largest_child = max(self.largest_child, kilobytes.get("VmHWM", 0) / 1024)
        self.together = max(self.together, (resident + shared) / 1024)


def run_alone(name: str, task: Task) -> dict:
    """Run one engine in a process of its own; return its seconds and its memory."""
    said = task.place / "said.json"
    command = [sys.executable, __file__, "--engine", name, *map(str, (task.source, task.size, task.rows, task.place, said))]
    with (task.place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    memory = Memory(process.pid)
    while process.poll() is None:
        memory.sample()
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{(task.place / 'log').read_text(errors='replace')[-5000:]}")
    found = {**json.loads(said.read_text()), "together_mb": memory.together}
    return {**found, "largest_child_mb": memory.largest_child} if name == OURS else found


def engine(name: str, source: str, size: str, rows: str, place: str, said: str) -> None:
    task = Task(Path(source), int(size), int(rows), Path(place))
    Path(said).write_text(json.dumps(ENGINES[name](task)))


# ---- all of them, in turn ----


def sources(folder: Path, megabytes: int, csv_megabytes: int) -> Iterator[Path]:
    for path, size, make in (
        (folder / f"table-{megabytes}.parquet", megabytes, make_parquet),
        (folder / f"table-{csv_megabytes}.csv", csv_megabytes, make_csv),
    ):
        if size:
            if not path.exists():
                make(path, size)
            yield path


def measure(given: argparse.Namespace, folder: Path) -> list[dict]:
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    found: list[dict] = []
    engines = [name for name in ENGINES if given.only is None or any(word in name for word in given.only)]
    if importlib.util.find_spec("ray") is None:
        engines = [name for name in engines if ENGINES[name] is not ray_data]
    with prefect_test_harness(server_startup_timeout=180), tempfile.TemporaryDirectory(dir=folder) as scratch:
        os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value()
        for source in sources(folder, given.megabytes, given.csv_megabytes):
            expected = Path(scratch, "expected.txt")
            rows, size = write_expected(source, expected), source.stat().st_size
            for megabytes in given.mini_batches:
                runs: dict[str, list[dict]] = {name: [] for name in engines}
                for _ in range(given.rounds):
                    for name in engines:
                        place = Path(tempfile.mkdtemp(dir=scratch))
                        task = Task(source, megabytes * 1_000_000, max(1, round(rows * megabytes * 1_000_000 / size)), place)
                        figures = run_alone(name, task)
                        same = check(task, expected, to_the_byte=name == OURS)
                        runs[name].append({**figures, "same_bytes": same})
                        shutil.rmtree(place)
                found.append({"source": source.name, "bytes": size, "rows": rows, "mini_batch_mb": megabytes, "runs": runs})
                show(found[-1])
    return found


def show(found: dict) -> None:
    def three(values: list[float], digits: int) -> str:
        middle = statistics.median(values)
        return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    what = f"{found['source']}, {found['bytes'] / 1e6:.0f} MB, {found['rows']} rows"
    what += f", mini-batches of {found['mini_batch_mb']} MB"
    print(f"\n| {what} | s: median (min to max) | MB/s | ÷ ours | MB of memory at most | same bytes as pandas |")
    print("|---|---|---|---|---|---|")
    mine = statistics.median([run["working"] for run in found["runs"].get(OURS, ())] or [float("nan")])
    for name, runs in found["runs"].items():
        seconds = [run["working"] for run in runs]
        middle = statistics.median(seconds)
        memory = f"{max(run['together_mb'] for run in runs):.0f}"
        if name == OURS:
            memory += f", largest child {max(run['largest_child_mb'] for run in runs):.0f}"
        same = "yes" if all(run["same_bytes"] for run in runs) else "no"
        speed = f"{found['bytes'] / 1e6 / middle:.0f} | {middle / mine:.2f}"
        print(f"| {name} | {three(seconds, 2)} | {speed} | {memory} | {same} |")
        if name == OURS:
            print(f"| our planning, beforehand | {three([run['planning'] for run in runs], 2)} | | | | |", flush=True)


def main() -> None:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
    if sys.argv[1:2] == ["--engine"]:
        engine(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1000, help="of the Parquet file; 0: without it")
    parser.add_argument("--csv-megabytes", type=int, default=500, help="of the CSV; 0: without it")
    parser.add_argument("--mini-batches", type=int, nargs="+", default=[1, 10], help="MB of source in each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="engines whose name holds one of these words")
    parser.add_argument("--folder", type=Path, help="where the files are made and kept")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with contextlib.ExitStack() as until_done:
        folder = given.folder or Path(until_done.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = until_done.enter_context(tempfile.TemporaryDirectory())
        found = measure(given, folder)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
