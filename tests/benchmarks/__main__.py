"""What a step costs, beside what people use today. Everything is measured in turn, in one run: only the ratios carry over.

    python tests/benchmarks                                   all workloads, in full
    python tests/benchmarks no-op tables --rounds 5           some of them
    python tests/benchmarks --json figures.json --plots DIR   with all values, and drawn
    python tests/benchmarks --gate                            a reduced form, against the ratios stored in gate.json

All of it takes some twenty minutes on two cores. A peer that is slow is run once, or at small sizes only: tables say so.
The extra `benchmark` installs the peers and matplotlib; an engine that is not installed is left out, and named.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import plots
import show
import steps
from bench import Bench
from measure import Bound, EngineFailedError, Table, judge

_GATE = Path(__file__).with_name("gate.json")
#: Workloads and the modules that measure them, in this order.
WORKLOADS = {
    "no-op": "no_op",
    "n-scaling": "n_scaling",
    "cpu-bound": "cpu_bound",
    "uneven": "uneven",
    "large-rows": "large_rows",
    "real-jobs": "real_jobs",
    "result-parts": "result_parts",
    "tables": "tables",
    "columns": "columns",
    "read-ahead": "read_ahead",
    "start-up": "start_up",
    "faults": "faults",
    "supervision": "supervision",
    "planning": "planning",
    "simulation": "simulation",
    "scale": "scale",
}
IN_GATE = ("no-op", "cpu-bound", "tables", "start-up", "faults", "simulation")


def main() -> int:
    """Measure, and return the exit code: 0 well, 1 a bound of the gate is exceeded or an engine failed."""
    parser = _parser()
    given = parser.parse_args()
    if unknown := set(given.workloads) - WORKLOADS.keys():
        parser.error(f"no workload is called {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that engines and folders are cleaned up
    steps.quiet()
    facts = show.machine()
    found: list[Table] = []
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder, _server(Path(folder)):
            bench = Bench(
                place=Path(folder),
                rounds=given.rounds or (2 if given.gate else 3),
                patience=given.patience,
                gate=given.gate,
                sizes=tuple(given.mini_batches),
                megabytes=given.megabytes,
                files=given.files,
                where=given.where,
                only=tuple(given.only or ()),
            )
            for workload in given.workloads or (IN_GATE if given.gate else WORKLOADS):
                for table in importlib.import_module(WORKLOADS[workload]).measure(bench):
                    found.append(table)
                    print(show.as_text(table), flush=True)
    except EngineFailedError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        if given.json is not None:
            given.json.write_text(json.dumps(show.as_json(found, facts), indent=2, ensure_ascii=False) + "\n")
    if given.plots is not None:
        plots.draw(found, given.plots)
    if failed := {name for table in found for name in table.failed}:
        print(f"\nfailed: {', '.join(sorted(failed))}", file=sys.stderr)
        return 1
    return _judge(found) if given.gate else 0


def _judge(found: list[Table]) -> int:
    measured = {table.workload for table in found}
    bounds = [Bound(**entry) for entry in json.loads(_GATE.read_text())]
    verdicts = judge([bound for bound in bounds if bound.table.partition(",")[0] in measured], found)
    print("\nThe gate: our median divided by a peer's")
    for verdict in verdicts:
        print(f"  {verdict}")
    return 0 if all(verdict.kept for verdict in verdicts) else 1


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """Run a Prefect server that all flow processes of this run talk to; what it says goes to a log."""
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    with (folder / "server.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        harness = prefect_test_harness(server_startup_timeout=180)
        harness.__enter__()
        os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
    try:
        yield
    finally:
        with (folder / "server.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            harness.__exit__(None, None, None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, metavar="N", help="how often every engine is run (3; 2 with --gate)")
    sizes = [1_000, 10_000, 100_000]
    parser.add_argument("--mini-batches", type=int, nargs="+", default=sizes, metavar="N", help="of no-op and n-scaling")
    parser.add_argument(
        "--megabytes", type=int, default=300, help="of the tables' Parquet file (the CSV has half of it), and of result-parts"
    )
    parser.add_argument("--files", type=int, default=100_000, help="that planning lists; ten to a mini-batch")
    words = "s after which a peer is not run once more (6): slow ones have fewer rounds"
    parser.add_argument("--patience", type=float, default=6.0, metavar="S", help=words)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="engines whose name holds one of these words")
    parser.add_argument("--where", action="store_true", help="no-op: tell as well where the CPU time goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw them there (matplotlib)")
    parser.add_argument("--gate", action="store_true", help="the reduced form; exit 1 when a ratio of gate.json is exceeded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
