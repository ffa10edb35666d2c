"""CPU-bound mini-batches: the share of the two processes' time, first begin to last end, that was spent in run().

Busy mini-batches spin until they have used their CPU seconds, whatever the wall clock says; sleeping ones show slots that
starve even where the two cores are short of nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import steps
from bench import Bench
from measure import OURS, Run, Table

SHARE = "% of the slots' time in run()"
_ALL = (
    "multiprocessing.Pool.imap, chunk 1",
    "concurrent.futures, chunk 1",
    "joblib, automatic batches",
    "distributed Client.map",
    "Ray tasks",
    "Ray Data map_batches",
    "PySpark mapInPandas",
    "Prefect task.map, prefect-dask",
)
_STANDARD = ("multiprocessing.Pool.imap, chunk 1", "distributed Client.map")
_CASES = (
    ("spin", 0.05, 200, _ALL),
    ("spin", 0.005, 2_000, _ALL[:5]),  # those that do well with 50 ms
    ("sleep", 0.05, 200, _STANDARD),
    ("sleep", 0.005, 2_000, _STANDARD),
)


def measure(bench: Bench) -> Iterator[Table]:
    for function, seconds, number, peers in (("spin", 0.05, 40, _STANDARD),) if bench.gate else _CASES:
        with bench.folder() as folder:
            given = steps.make_files(folder, number, lambda index, seconds=seconds: f"{index:07d}_{seconds}")
            case = f"{number:,} x {1000 * seconds:g} ms, {'busy' if function == 'spin' else 'sleeping'}"
            yield from share(bench, case, function, given, peers, number)


def share(bench: Bench, case: str, function: str, given: steps.Input, peers: tuple[str, ...], number: int) -> Iterator[Table]:
    target = given.folder.parent / "rows.txt"

    def peer(name: str) -> Run:
        def run() -> dict[str, float]:
            bench.engines.call(name, "peers:run", name, function, str(given.listed), 1, str(target))
            return share_of(target)

        return run

    def ours() -> dict[str, float]:
        fields = {"mini_batch_size": 1}
        found = bench.ours("steps:work_over", str(given.folder), given.times, f"{function}.py", None, True, fields)
        return {SHARE: 100 * found["inside"] / (steps.PROCESSES * found["span"])}

    can, left_out = bench.peers(peers, peer, number)
    yield from bench.in_turn("cpu-bound", case, {OURS: ours, **can}, left_out, shares=(SHARE,))


def share_of(rows: Path) -> dict[str, float]:
    """Return the share that rows of begin and end, Unix time, tell of."""
    times = spans(rows)
    span = max(end for _, end in times) - min(began for began, _ in times)
    return {SHARE: 100 * sum(end - began for began, end in times) / (steps.PROCESSES * span)}


def spans(rows: Path) -> list[tuple[float, float]]:
    """Return begin and end of every call."""
    times = [tuple(map(float, line.split())) for line in rows.read_text().splitlines()]
    return [(began, end) for began, end in times]
