"""Planning: how long it takes to list and plan many files, in how much memory, and when the first of them are run.

Two processes of their own measure: one plans the files, ten to a mini-batch, and nothing else; one runs a step over them whose
run() does nothing, and tells from its ledger when the first mini-batch began. The bare listing (scandir and stat of every file,
nothing kept) is the limit. Files are spread over a hundred folders at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import steps
from bench import Bench
from family import peak_mb
from measure import OURS, Table, tables

LIMIT = "the limit: bare listing"
ALONE, FIRST, WHOLE = f"{OURS}, planning alone", f"{OURS}, a step to its first run()", f"{OURS}, a step to its result"
_PER_FOLDER = 100_000
_MEMORY = "MB above what one file takes"


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        place = folder / "files"
        for start in range(0, bench.files, _PER_FOLDER):
            steps.make_files(place / f"{start:09d}", min(_PER_FOLDER, bench.files - start))
        for listed in place.glob("*/paths.txt"):
            listed.unlink()
        found: dict[str, list[dict[str, float]]] = {name: [] for name in (LIMIT, ALONE, FIRST, WHOLE)}
        for _ in range(bench.rounds):
            for name, function in ((LIMIT, "list_bare"), (ALONE, "plan"), (OURS, "run")):
                figures = bench.engines.call(name, f"planning:{function}", str(place), str(folder))
                bench.engines.end(name)
                if name == OURS:
                    found[FIRST].append({"s": figures.pop("to_first_run")})
                found[WHOLE if name == OURS else name].append(figures)
        yield from tables("planning", f"{bench.files:,} files", found, baseline=LIMIT)


def list_bare(place: str, _: str) -> dict[str, float]:
    began = time.perf_counter()
    for folder, _folders, names in os.walk(place):
        for name in names:
            os.stat(f"{folder}/{name}")
    return {"s": time.perf_counter() - began}


def plan(place: str, scratch: str) -> dict[str, float]:
    from prefect_parallel_run import FileDataset
    from prefect_parallel_run.planning.inputs import normalize_inputs
    from prefect_parallel_run.planning.planner import Planning, PlanWriter

    datasets = normalize_inputs([FileDataset.from_files(place)])
    one = normalize_inputs([FileDataset.from_files(__file__)])
    Planning(one, 10, None, Path()).write(PlanWriter(Path(scratch, "one.parquet")))  # imports, and what is made once
    before, began = peak_mb(), time.perf_counter()
    Planning(datasets, 10, None, Path()).write(PlanWriter(Path(scratch, "plan.parquet")))
    return {"s": time.perf_counter() - began, _MEMORY: peak_mb() - before}


def run(place: str, scratch: str) -> dict[str, float]:
    one = Path(scratch, "one")
    one.mkdir(exist_ok=True)
    (one / "file").touch()
    steps.work_over(str(one), 1, "no_op.py", None)  # imports, and what is made once
    before = peak_mb()
    found = steps.work_over(place, 1, "no_op.py", None)
    return {"to_first_run": found["to_first_run"], "s": found["whole"], _MEMORY: peak_mb() - before}
