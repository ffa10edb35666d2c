"""n-scaling: what a step costs as a function of its number of mini-batches. Per mini-batch nothing may grow.

Each number has a flow process of its own, which runs a small step first: its memory is told above what it held at most then.
With compute_target "local" Dask's scheduler lives in the flow process, so its memory is counted there. Calls of Prefect's API
are HTTP requests of the flow process, counted as they leave it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import steps
from bench import Bench
from family import peak_mb
from measure import OURS, EngineFailedError, Table, tables

_FEW = 20


def measure(bench: Bench) -> Iterator[Table]:
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    for number in bench.sizes:
        with bench.folder() as folder:
            few, many = steps.make_files(folder / "few", _FEW), steps.make_files(folder / "many", number)
            try:
                figures = bench.ours("n_scaling:scale", str(few.folder), str(many.folder), many.times)
            except EngineFailedError as error:
                failed[f"{OURS}, {number:,}"] = str(error)
                continue
        per = {
            "overhead, µs per mini-batch": 1e6 * figures["working"] / number,
            "memory above a small step's, MB": figures["memory_mb"],
            "calls of Prefect's API": figures["calls"],
            "ledger, bytes per mini-batch": figures["ledger_bytes"] / number,
        }
        found[f"{number:,} mini-batches"] = [per]
    yield from tables("n-scaling", "1 file each", found, failed=failed, baseline=next(iter(found), OURS))


def scale(few: str, many: str, times: int) -> dict[str, float]:
    """Run a small step and then one over many files, one to a mini-batch; called in its flow process."""
    calls = _Calls()
    steps.work_over(few, 1, "no_op.py", None, False, {"mini_batch_size": 1})
    before, memory = calls.made, peak_mb()
    output = Path(f"{many}.out")
    try:
        found = steps.run_step(steps.make_step("no_op.py", steps.named(many, times), output, mini_batch_size=1))
        ledger = sum(path.stat().st_size for path in found.run_directory.glob("ledger.sqlite*"))
    finally:
        shutil.rmtree(output, ignore_errors=True)
    return {
        "working": found.ended - found.first,
        "memory_mb": peak_mb() - memory,
        "calls": calls.made - before,
        "ledger_bytes": ledger,
    }


class _Calls:
    """Counts the HTTP requests that leave this process through httpx, which is what Prefect's clients use."""

    def __init__(self) -> None:
        import httpx

        self.made = 0
        self._count(httpx.HTTPTransport, "handle_request")
        self._count(httpx.AsyncHTTPTransport, "handle_async_request")

    def _count(self, kind: Any, method: str) -> None:
        original = getattr(kind, method)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.made += 1
            return original(*arguments, **named)

        setattr(kind, method, counted)
