"""Start-up: from the call of a step to its first run(), from its last run() to the result, and what importing us costs.

A step over one mini-batch, in a flow process that has run one before, with two Dask workers of one process each. The peer is
a bare LocalCluster's own start, until both of its workers are there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import peers
import steps
from bench import Bench
from measure import OURS, Table

CLUSTER = "a bare LocalCluster, 2 workers"
FIRST = f"{OURS}, step() to first run()"
_WHOLE = f"{OURS}, the step as a whole"
_LAST = f"{OURS}, last run() to result"
_SCRIPTS = {"the script imports nothing": "no_op.py", "the script imports pandas": "pandas_too.py"}
_PYTHON = "python -c pass"
_IMPORTS = {
    _PYTHON: "pass",
    f"{OURS}, imported": "import prefect_parallel_run",
    f"{OURS}, with ParallelRunStep": "from prefect_parallel_run import ParallelRunStep",
    "distributed, imported": "import distributed",
    "prefect, imported": "import prefect",
}


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder() as folder:
        one = steps.make_files(folder, 1)
        bench.ours("steps:work_over", str(one.folder), 1, "pandas_too.py", None)  # imports, and what is made once
        bench.engines.call(CLUSTER, "start_up:open_cluster")  # the same
        for case, script in list(_SCRIPTS.items())[: 1 if bench.gate else None]:

            def ours(script: str = script) -> dict[str, float]:
                fields = {"node_count": 2, "process_count_per_node": 1}
                return bench.ours("steps:work_over", str(one.folder), 1, script, None, False, fields)

            def bare() -> dict[str, float]:
                return {CLUSTER: bench.engines.call(CLUSTER, "start_up:open_cluster")}

            yield from bench.in_turn_by_part(
                "start-up",
                case,
                "s",
                [(ours, {"to_first_run": FIRST, "publishing": _LAST, "whole": _WHOLE}), (bare, {CLUSTER: CLUSTER})],
                baseline=FIRST,
            )
    if not bench.gate:
        runs = {name: lambda code=code: {"ms": 1000 * _interpreter(code)} for name, code in _IMPORTS.items()}
        yield from bench.in_turn("start-up", "a new interpreter", runs, baseline=_PYTHON)


def open_cluster() -> float:
    """Return the seconds until a cluster with both workers is open."""
    began = time.perf_counter()
    with peers.dask_cluster() as client:
        client.wait_for_workers(peers.PROCESSES)
        return time.perf_counter() - began


def _interpreter(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began
