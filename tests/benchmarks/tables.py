"""Tables: how fast rows go through a cheap run() into one file, and in how much memory, beside what people write by hand.

A Parquet file and a CSV of 20 numeric columns and 2 texts. Every engine gets the same function (a DataFrame in, id and score of
every row out), two cores, mini-batches of 1 and 10 MB of source, and leaves one file with all rows. Planning, which goes on
while the cluster opens, stands in a row of its own. Every round has a new process.

Memory is that of all processes of an engine at one moment, ours without the Prefect server. The rows of every engine are
compared with those that pandas writes when it reads the file from front to back: ours must be the same bytes.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import Bench
from measure import OURS, Run, Table
from table_engines import ENGINES, PLANNING
from table_source import Task, check, make_csv, make_parquet, write_expected

CHILD = f"{OURS}, its largest child"
MEMORY = "MB of memory at most"
_IN_GATE = ("two bare processes", "dask.dataframe, two workers", OURS)
_GATE_MEGABYTES = 20


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        megabytes = _GATE_MEGABYTES if bench.gate else bench.megabytes
        for source, make, size in (
            (folder / "table.parquet", make_parquet, megabytes),
            (folder / "table.csv", make_csv, megabytes // 2),
        )[: 1 if bench.gate else None]:
            make(source, size)
            rows = write_expected(source, folder / "expected.txt")
            for mini_batch in (1,) if bench.gate else (1, 10):
                yield from _measure(bench, folder, source, rows, mini_batch)
            source.unlink()


def _measure(bench: Bench, folder: Path, source: Path, rows: int, mini_batch: int) -> Iterator[Table]:
    total, size = source.stat().st_size, mini_batch * 1_000_000
    notes: dict[str, str] = {}

    def engine(name: str) -> Run:
        def run() -> dict[str, float]:
            place = Path(tempfile.mkdtemp(dir=folder))
            task = Task(source, size, max(1, round(rows * size / total)), place)
            arguments = (name, str(source), task.size, task.rows, str(place))
            found, family = bench.watched(name, "table_engines:run", *arguments)
            bench.engines.end(name)
            if name != PLANNING and not check(task, folder / "expected.txt", to_the_byte=name == OURS):
                notes[name] = "the same rows as pandas, other bytes"
            shutil.rmtree(place)
            child = {"MB in the largest child": family.largest_child_mb} if name == OURS else {}
            memory = {} if name == PLANNING else {MEMORY: family.together_mb}
            return {"s": found["working"], **memory, **child}

        return run

    names = [name for name in ENGINES if not bench.gate or name in _IN_GATE]
    left_out = {}
    if "Ray Data, two CPUs" in names and importlib.util.find_spec("ray") is None:
        names.remove("Ray Data, two CPUs")
        left_out["Ray Data, two CPUs"] = "ray is not installed"
    kind = "Parquet" if source.suffix == ".parquet" else "CSV"
    case = f"{kind}, {total / 1e6:,.0f} MB, mini-batches of {mini_batch} MB"
    if bench.gate:  # the size depends on the libraries' versions
        case = f"{kind}, some {_GATE_MEGABYTES} MB"
    yield from bench.in_turn("tables", case, {name: engine(name) for name in names}, left_out, notes=notes)
