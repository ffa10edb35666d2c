"""Large rows: 1 MB of text per mini-batch, into one ordered result file. Here the rows' way is what costs."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator

import functions
import steps
from bench import Bench
from measure import OURS, Run, Table

LIMIT = "the limit: two bare processes"
UNIT = "ms per mini-batch"
_NUMBER = 400  #: mini-batches
_PEERS = (
    "multiprocessing.Pool.imap, chunk 1",
    "concurrent.futures, chunk 1",
    "joblib, automatic batches",
    "distributed Client.map",
    "Ray tasks",
    "Ray Data map_batches",
)


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        given = steps.make_files(folder, _NUMBER * functions.LARGE)
        expected, target = folder / "expected.txt", folder / "rows.txt"

        def limit() -> dict[str, float]:
            found = bench.engines.call(LIMIT, "bare:run", "large_rows", str(given.listed), functions.LARGE, str(expected))
            return {UNIT: 1000 * found["seconds"] / _NUMBER}

        def check() -> None:
            if not filecmp.cmp(target, expected, shallow=False):
                raise AssertionError("other rows than the limit's")
            target.unlink()

        def peer(name: str) -> Run:
            def run() -> dict[str, float]:
                arguments = (name, "large_rows", str(given.listed), functions.LARGE, str(target))
                found = bench.engines.call(name, "peers:run", *arguments)
                check()
                return {UNIT: 1000 * found["seconds"] / _NUMBER}

            return run

        def ours() -> dict[str, float]:
            found = bench.ours("steps:work_over", str(given.folder), given.times, "large_rows.py", str(target), True)
            check()
            return {UNIT: 1000 * found["working"] / _NUMBER}

        limit()  # the result that all others are compared with
        can, left_out = bench.peers(_PEERS, peer, _NUMBER)
        yield from bench.in_turn("large-rows", f"{_NUMBER} x 1 MB", {LIMIT: limit, OURS: ours, **can}, left_out)
