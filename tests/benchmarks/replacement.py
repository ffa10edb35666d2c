"""How soon a process that crashed, was killed or overran its time is replaced, and how late one that overran is gone.

    python tests/benchmarks/replacement.py [--rounds 7] [--json FILE]

One node with one slot, without a cluster; the script imports pandas, and every second mini-batch takes its process away. The
replacement is timed from the last moment of the old process (for one that overran: from the moment it was gone) to the first
run() of the next. The first crash of a run pays a start in full: a spare is started only then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from prefect_parallel_run import FileDataset
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.plan import Plan
from prefect_parallel_run.planning import normalise_inputs, write_plan
from prefect_parallel_run.records import Receipt

TIMEOUT = 2.0  #: s, the run_invocation_timeout of what overruns it
SCRIPT = """
import os, signal, sys, time
import pandas
LOG, HOW = sys.argv[1:]
def note(what):
    with open(LOG, "a") as file:
        file.write(f"{what} {time.time()}\\n")
def run(mini_batch, context):
    note("begun")
    if context.minibatch_index % 2:
        time.sleep(1)  # busy for a moment, so that what goes on in the background has come to its end
        note("last")
        if HOW == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)
    return mini_batch
"""


def settings(folder: Path, how: str) -> NodeSettings:
    for name in ("logs", "parts"):
        (folder / name).mkdir()
    (folder / "takes_its_process_away.py").write_text(SCRIPT)
    return NodeSettings(
        token=how,
        node="node-0",
        drive=1,
        slots=1,
        most_slots=1,
        interpreter=None,
        script=str(folder / "takes_its_process_away.py"),
        source=str(folder),
        arguments=(str(folder / "log"), how),
        output="",
        side_inputs={},
        environment_variables={},
        run_directory=str(folder),
        modules=(),
        fetches=False,
        keep_rows=True,
        row_format="text",
        row_header=False,
        logging_level="INFO",
        run_invocation_timeout=TIMEOUT if how == "timeout" else 60.0,
        init_timeout=60.0,
        process_memory_limit=None,
    )


def works(folder: Path, number: int) -> list[Work]:
    (folder / "files").mkdir()
    for index in range(number):
        os.close(os.open(folder / "files" / f"{index:03d}", os.O_CREAT | os.O_WRONLY))
    plan = folder / "plan.parquet"
    write_plan(normalise_inputs([FileDataset.from_files(folder / "files")]), 1, plan)
    lines = (text.encode() for text in Plan.open(plan).works(0, number))
    return [Work(index, 1, b"[%d,1,%b]\n" % (index, line)) for index, line in enumerate(lines)]


def measure(how: str, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds: of the first and of the later replacements, and how late a process that overran was gone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        node = Node(settings(folder, how), lambda: None)
        try:
            receipts = [Receipt(*receipt) for receipt in node.run(works(folder, 2 * rounds + 3)).receipts]
        finally:
            node.close(graceful=False)
        lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    ends = [float(at) for what, at in lines if what == "last"]
    late = []
    if how == "timeout":
        lost = [receipt for receipt in receipts if receipt.outcome == "timed_out"]
        late = [(receipt.seconds - TIMEOUT) * 1000 for receipt in lost]
        ends = [receipt.started + receipt.seconds for receipt in lost]
    begun = [float(at) for what, at in lines if what == "begun"]
    replaced = [(min(at for at in begun if at > end) - end) * 1000 for end in ends]
    return {"first": replaced[:1], "later": replaced[1:], "late": late}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {how: measure(how, options.rounds) for how in ("crash", "timeout")}
    for how, figures in found.items():
        for what, values in figures.items():
            if values:
                spread = f"{min(values):.0f} to {max(values):.0f}"
                print(f"{how:8} {what:6} {statistics.median(values):7.0f} ms, median of {len(values)} ({spread})")
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
