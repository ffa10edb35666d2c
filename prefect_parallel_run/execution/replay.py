"""Runs one mini-batch of a run in this process, without a cluster, to inspect or debug it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from prefect_parallel_run._units import count
from prefect_parallel_run.child.azureml_stand_ins import configure_stand_ins
from prefect_parallel_run.child.entry_script import Context, EntryScript, as_script, load
from prefect_parallel_run.child.input_columns import InputColumns
from prefect_parallel_run.child.reading import FileList, Reader
from prefect_parallel_run.child.rows import materialize, with_inputs
from prefect_parallel_run.errors import NoRunError
from prefect_parallel_run.monitoring.locations import location_of
from prefect_parallel_run.node.prefetch import fetch, is_fetched
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec


def replay(directory: RunDirectory, spec: StepSpec, number: int, call: Callable[..., Any], log: Callable[[str], None]) -> Any:
    """Return the rows of mini-batch *number*, with their input columns; writes neither to the ledger nor to the result.

    *call* calls a function with arguments, possibly in a debugger; *log* receives a description of the mini-batch before.

    Raises:
        NoRunError: The mini-batch does not exist.
        UnmatchedRows: The rows cannot be assigned to the items, which append_row_input_columns requires.
    """
    plan = Plan(directory.plan)
    if not 0 <= number < plan.summary.mini_batches:
        raise NoRunError(str(directory.path), f"has no mini-batch {number}; there are {plan.summary.mini_batches}, from 0")
    work = json.loads(plan.works(number, number + 1)[0])
    item_count = count(plan.items(number, number + 1)[0], "item")
    log(f"mini-batch {number}, {item_count}: {location_of(work)}; run_invocation_timeout does not apply")
    with tempfile.TemporaryDirectory(prefix="parallel_run_replay_") as scratch, as_script():
        _configure(directory, spec, scratch)
        previous = os.getcwd()  # noqa: PTH109  a string, as os.chdir expects
        os.chdir(scratch)
        try:
            return _run(spec, number, work, call, Path(scratch))
        finally:
            os.chdir(previous)


def _configure(directory: RunDirectory, spec: StepSpec, scratch: str) -> None:
    """Set what a child sets before it imports the script."""
    output, side_inputs = str(spec.output or ""), dict(spec.parameters.side_inputs)
    os.environ.update({**spec.config.environment_variables, "AZUREML_BI_OUTPUT_PATH": output})
    EntryScript.output_dir, EntryScript.log_dir, EntryScript.working_dir = output, str(directory.logs), scratch
    EntryScript.agent_name, EntryScript.side_inputs = "replay", side_inputs
    EntryScript.dir = str(spec.config.script_path.parent)
    configure_stand_ins(
        {
            "step": spec.name,
            "run_id": directory.run_id,
            "models": spec.config.models,
            "side_inputs": side_inputs,
            "scratch": scratch,
            "metrics_file": str(Path(scratch, ".metrics.jsonl")),
        }
    )


def _run(spec: StepSpec, number: int, work: dict[str, Any], call: Callable[..., Any], scratch: Path) -> Any:
    config = spec.config
    arguments = list(spec.parameters.arguments)
    script = call(load, str(config.script_path), str(config.source_path), arguments, config.entry_function or "")
    with closing(script):
        call(script.init)
        if is_fetched(work):
            work = call(fetch, work, scratch / ".fetched")
        items = Reader().read(work)
        if isinstance(items, FileList):
            items.task_id = str(number)
        columns = config.append_row_input_columns
        inputs = InputColumns(columns, items, work) if columns else None  # before run(), which may change the items
        result = materialize(call(script.run, items, Context(number, work["input"], 1, work.get("partition_key_value"))))
        call(script.shutdown)
        return with_inputs(result, config.result_format, config.append_row_csv_options, inputs)
