"""Columns: a few of a wide Parquet table. How long a step needs that keeps them, beside plain pyarrow reading the same ones.

A table of 1,000 columns of which five are used, and one of 20 columns of which three are; the latter also in small, once. Its
run() only looks at the DataFrame. The clock of a step runs from the begin of its first try, before that reads, to the end of
its last one; pyarrow's from opening the file to the last DataFrame. Reading one file takes less time than the second process
needs to start, so every engine reads it several times over.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import steps
from bench import Bench
from measure import OURS, Run, Table

ALONE, BARE, ALL = "pyarrow alone, two threads", "pyarrow alone, one thread", "the same step without keep_columns"
_FUNCTIONS = {ALONE: "read_alone", BARE: "read_by_one", OURS: "keep", ALL: "take_all"}
_WHOLE = "s, from step() to its result"
_SMALL = 120  #: MB of the small table
_TIMES = 10  #: how often the file is read
_GROUP = 64 << 20  #: bytes of a row group, about


def measure(bench: Bench) -> Iterator[Table]:
    small, large = (20, 3, _SMALL, 10, 1), (20, 3, bench.megabytes, 10, _TIMES)
    for columns, kept, megabytes, mini_batch, times in (small, large, (1000, 5, bench.megabytes, 1, _TIMES)):
        with bench.folder() as folder:
            source = folder / "table.parquet"
            rows = make(source, columns, megabytes)
            often = f"{times} x " if times > 1 else ""
            case = f"{kept} of {columns:,} columns, {often}{megabytes} MB, mini-batches of {mini_batch} MB"
            arguments = (str(source), kept, mini_batch * 1_000_000, times, rows)
            yield from bench.in_turn("columns", case, dict(_runs(bench, arguments)), baseline=ALONE)


def _runs(bench: Bench, arguments: tuple) -> Iterator[tuple[str, Run]]:
    for name, function in _FUNCTIONS.items():
        yield name, lambda name=name, function=function: bench.engines.call(name, f"columns:{function}", *arguments)


def make(path: Path, columns: int, megabytes: int) -> int:
    """Write random numbers, and return the number of rows; the file stays in the page cache."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = _names(columns)
    group = _GROUP // (8 * columns)
    random = np.random.default_rng(columns)
    schema = pa.schema([(name, pa.float64()) for name in names])
    count = max(2, megabytes * 1_000_000 // (8 * columns * group))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for _ in range(count):
            file.write_table(pa.table([random.random(group) for _ in names], schema=schema))
    return count * group


def _names(columns: int) -> list[str]:
    return [f"c{number:03d}" for number in range(columns)]


def _wanted(kept: int) -> list[str]:
    return _names(20)[:: 20 // kept][:kept]


def read_alone(source: str, kept: int, _size: int, times: int, rows: int, threads: bool = True) -> dict[str, float]:
    """Read the columns, row group by row group; the modules are imported before the clock."""
    importlib.import_module("pandas")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(2)
    began, found = time.perf_counter(), 0
    for _ in range(times):
        with pq.ParquetFile(source) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=_wanted(kept), use_threads=threads)
                found += len(table.to_pandas(use_threads=threads))
    seconds = time.perf_counter() - began
    assert found == rows * times
    return {"s": seconds}


def read_by_one(*arguments) -> dict[str, float]:
    return read_alone(*arguments, False)


def keep(*arguments) -> dict[str, float]:
    return _step(*arguments, keeps=True)


def take_all(*arguments) -> dict[str, float]:
    return _step(*arguments, keeps=False)


def _step(source: str, kept: int, size: int, times: int, rows: int, *, keeps: bool) -> dict[str, float]:
    """Run a step; every mini-batch checks that it has the columns."""
    from prefect_parallel_run import TabularDataset

    wanted = _wanted(kept)
    dataset = TabularDataset.from_parquet_files(source)
    inputs = [(dataset.keep_columns(wanted) if keeps else dataset).as_named_input(f"n{number}") for number in range(times)]
    fields = {"output_action": "summary_only", "mini_batch_size": size, "arguments": ["--columns", ",".join(wanted)]}
    with tempfile.TemporaryDirectory(dir=Path(source).parent) as output:
        found = steps.run_step(steps.make_step("columns.py", inputs, Path(output), **fields))
        ((done,),) = steps.attempts(found.run_directory, "SELECT SUM(succeeded) FROM mini_batches")
    assert done == rows * times
    return {"s": found.span, _WHOLE: found.ended - found.called}
