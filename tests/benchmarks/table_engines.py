"""What scores a table: we, the peers, and the limit. Each engine is called in a process of its own and returns seconds.

The peers' clock starts with pool or cluster open and libraries imported, and ends with the file written. Ours starts with the
first run(), in children that have imported the same libraries with their script, and ends with the step's result.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import peers
import steps
from measure import OURS
from table_source import AS_TEXT, FLOATS, Task, score

PLANNING = f"{OURS}, planning alone"
SCRIPT = """import pandas
import pyarrow.compute
import pyarrow.parquet


def run(mini_batch):
    return score(mini_batch)


"""


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

    with peers.dask_cluster() as client:
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
    found = steps.run_step(ParallelRunStep("tables", config, inputs=inputs, output=task.place, allow_reuse=False))
    return {"working": found.ended - found.first}


def planning(task: Task) -> dict:
    """Plan as a step does while its cluster opens, and nothing else."""
    from prefect_parallel_run import TabularDataset
    from prefect_parallel_run.planning.inputs import normalize_inputs
    from prefect_parallel_run.planning.planner import Planning, PlanWriter

    read = TabularDataset.from_parquet_files if task.is_parquet else TabularDataset.from_delimited_files
    for path in (task.place / "imports.parquet", task.place / "plan.parquet"):  # imports, and what is made once, come first
        began = time.perf_counter()
        Planning(normalize_inputs([read(task.source)]), task.size, None, Path()).write(PlanWriter(path))
    return {"working": time.perf_counter() - began}


ENGINES = {
    "pyarrow alone, two threads": arrow_alone,
    "two bare processes": bare,
    "dask.dataframe, two workers": dask_frame,
    "Ray Data, two CPUs": ray_data,
    OURS: ours,
    PLANNING: planning,
}


def run(name: str, source: str, size: int, rows: int, place: str) -> dict:
    """Have an engine score a table; called in the engine's own process."""
    return ENGINES[name](Task(Path(source), size, rows, Path(place)))
