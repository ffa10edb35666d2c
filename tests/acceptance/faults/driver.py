"""Runs one step in a process of its own, without Prefect, and kills that process at the write boundary it is told.

    python driver.py FILES OUTPUT LOG SECONDS [BOUNDARY]

A write boundary is every fsync, rename and commit of the flow process; BOUNDARY is the number of the one before which the
process ends by SIGKILL. At its end it prints how many there were.
"""

import itertools
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"
passed = itertools.count(1)


def note_boundary(kill_at):
    if next(passed) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


def watch_boundaries(kill_at):
    """Have every fsync, rename and commit pass by us first."""
    fsync, replace, execute = os.fsync, os.replace, sqlite3.Connection.execute
    path_replace = Path.replace

    def watched_fsync(descriptor):
        note_boundary(kill_at)
        return fsync(descriptor)

    def watched_replace(self, target):
        note_boundary(kill_at)
        return path_replace(self, target)

    class Watched(sqlite3.Connection):
        def execute(self, statement, *arguments):
            if statement == "COMMIT":
                note_boundary(kill_at)
            return execute(self, statement, *arguments)

    connect = sqlite3.connect
    os.fsync = watched_fsync
    os.replace = replace
    Path.replace = watched_replace
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Watched, **options)


def main():
    files, output, log, seconds = sys.argv[1:5]
    kill_at = int(sys.argv[5]) if len(sys.argv) > 5 else -1
    import logging

    from prefect_parallel_run import FileDataset, ParallelRunConfig
    from prefect_parallel_run.compute.local import LocalTarget
    from prefect_parallel_run.execution.runner import Callbacks, run_step
    from prefect_parallel_run.monitoring.listeners import listeners_of
    from prefect_parallel_run.output.reduction import reduce
    from prefect_parallel_run.planning.inputs import normalize_inputs
    from prefect_parallel_run.runs.events import emit_to
    from prefect_parallel_run.runs.spec import ScriptParameters, StepSpec

    watch_boundaries(kill_at)
    guilty = os.environ.get("DRIVER_POISON", "")
    more = os.environ.get("DRIVER_ARGUMENTS", "").split()
    config = ParallelRunConfig(
        source_directory=str(SCRIPTS),
        error_threshold=-1,
        output_action="append_row",
        **{
            "entry_script": "guilty.py" if guilty else "slow.py",
            "mini_batch_size": 2,
            "process_count_per_node": 2,
            "run_invocation_timeout": 1000,
            **json.loads(os.environ.get("DRIVER_CONFIG", "{}")),
        },
    )
    spec = StepSpec(
        name="driven",
        config=config,
        datasets=normalize_inputs([FileDataset.from_files(files)]),
        output=output,
        parameters=ScriptParameters(("--log", log, "--sleep", seconds, "--how", "raise", "--guilty", guilty or "none", *more)),
        interpreter=None,
        home=Path(log).parent,
    )
    emit = emit_to(listeners_of("driven", logging.getLogger("driver"), in_prefect=False))
    result = run_step(spec, LocalTarget(), Callbacks(reduce=reduce, emit=emit))
    print(json.dumps({"boundaries": next(passed) - 1, "result": result.model_dump()}))


if __name__ == "__main__":
    main()
