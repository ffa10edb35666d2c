"""No-op mini-batches: what one costs beside its own work. 10 paths in, 10 short texts out, one ordered result file.

The peers' clock starts with pool or cluster open and all paths ready. Ours starts with the first run() and ends with the
step's result: running, timing, counting, committing and publishing. It is told twice: for a step whose plan was whole by then
(what compares with the peers), and for one that was still listing its input (what a user sees). The limit is the same
function in two processes written by hand. Prefect's task.map is measured at 100 mini-batches, and per mini-batch like all.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

import steps
from bench import Bench
from measure import OURS, Run, Table, tables

PER_MINI_BATCH = 10
LIMIT = "the limit: two bare processes"
PLANNING = f"{OURS}, planning meanwhile"
_GATE_PEERS = ("multiprocessing.Pool.imap, chunk 100", "multiprocessing.Pool.imap, chunk 1", "distributed Client.map")
_PEERS = (
    *_GATE_PEERS[:2],
    "concurrent.futures, chunk 100",
    "concurrent.futures, chunk 1",
    "joblib, automatic batches",
    "joblib, batches of 1",
    "distributed Client.map",
    "dask.bag",
    "Ray tasks",
    "Ray Data map_batches",
    "PySpark mapInPandas",
)
_PREFECT = "Prefect task.map, prefect-dask"
_PLANNING_CPU = "planning alone, part of the flow process"
_FEW = 100  #: mini-batches for Prefect's map


def measure(bench: Bench) -> Iterator[Table]:
    for number in (2_000,) if bench.gate else bench.sizes:
        with bench.folder() as folder:
            yield from _measure(bench, number, folder)


def _measure(bench: Bench, number: int, folder: Path) -> Iterator[Table]:
    given = steps.make_files(folder, number * PER_MINI_BATCH)
    few = steps.make_files(folder / "few", _FEW * PER_MINI_BATCH)
    expected = folder / "expected.txt"
    unit = "µs per mini-batch"

    def check(target: Path) -> None:
        if not filecmp.cmp(target, expected, shallow=False):
            raise AssertionError(f"{target.name}: other rows than the limit's")
        target.unlink()

    def limit() -> dict[str, float]:
        found = bench.engines.call(LIMIT, "bare:run", "no_op", str(given.listed), PER_MINI_BATCH, str(expected))
        return {unit: 1e6 * found["seconds"] / number}

    def peer(name: str) -> Run:
        def run() -> dict[str, float]:
            target = folder / "rows.txt"
            found = bench.engines.call(name, "peers:run", name, "no_op", str(given.listed), PER_MINI_BATCH, str(target))
            check(target)
            return {unit: 1e6 * found["seconds"] / number}

        return run

    def prefect() -> dict[str, float]:
        target = folder / "few.txt"
        found = bench.engines.call(_PREFECT, "peers:run", _PREFECT, "no_op", str(few.listed), PER_MINI_BATCH, str(target))
        return {unit: 1e6 * found["seconds"] / _FEW}

    def ours(*, planned: bool) -> dict[str, float]:
        target = folder / "ours.txt"
        found = bench.ours("steps:work_over", str(given.folder), given.times, "no_op.py", str(target), planned)
        check(target)
        return {unit: 1e6 * found["working"] / number}

    limit()  # the result that all others are compared with
    bench.ours("steps:work_over", str(few.folder), 1, "no_op.py", None)  # imports, and what is made once
    can, left_out = bench.peers(_GATE_PEERS if bench.gate else _PEERS, peer, number)
    if not bench.gate and number == min(bench.sizes):
        of_prefect, why = bench.peers((_PREFECT,), lambda _: prefect, _FEW)
        can, left_out = {**can, **of_prefect}, {**left_out, **why}
    runs = {LIMIT: limit, OURS: lambda: ours(planned=True), PLANNING: lambda: ours(planned=False), **can}
    yield from bench.in_turn("no-op", f"{number:,} mini-batches", runs, left_out)
    if bench.where:
        yield from _where(bench, number, given, few)


def _where(bench: Bench, number: int, given: steps.Input, few: steps.Input) -> Iterator[Table]:
    """Tell whose CPU time it was: that of the step, planning included, less that of one with few mini-batches.

    The system counts in hundredths of a second: below 10,000 mini-batches that is more than there is to tell.
    """

    def cpu(one: steps.Input) -> dict[str, float]:
        _, family = bench.watched(OURS, "steps:work_over", str(one.folder), one.times, "no_op.py", None, True)
        family.look()
        return family.cpu_seconds()

    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(bench.rounds):
        idle, busy = cpu(few), cpu(given)
        per = {role: 1e6 * (seconds - idle.get(role, 0.0)) / (number - _FEW) for role, seconds in busy.items()}
        planning = 1e6 * bench.ours("steps:plan_alone", str(given.folder), given.times) / number
        for role, microseconds in {**per, "all together": sum(per.values()), _PLANNING_CPU: planning}.items():
            found.setdefault(role, []).append({"CPU µs per mini-batch": microseconds})
    yield from tables("no-op, where", f"{number:,} mini-batches", found, baseline="all together")
