"""``replay``: runs one mini-batch of a run in the foreground, for inspection or debugging."""

from __future__ import annotations

import pdb
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import click

from prefect_parallel_run.cli._command import BrokenOutputError, Exit, emit_json, emit_result, notify
from prefect_parallel_run.cli._run_command import RunCommand, open_run
from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.execution.replay import replay as run_mini_batch
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.runs.spec import spec_of


@click.command(cls=RunCommand)
@click.option("--mini-batch", type=int, required=True, metavar="N", help="Mini-batch number, starting at 0.")
@click.option("--pdb", "debug", is_flag=True, help="Stop in the debugger where the script raises.")
def replay(run_directory: str, mini_batch: int, debug: bool, as_json: bool) -> Exit:
    """Run one mini-batch in the foreground, without a cluster; the ledger is not changed."""
    directory = open_run(run_directory, verify_plan=True)
    spec = spec_of(directory, {})
    if spec.interpreter is not None:
        notify(f"replaying with {sys.executable} instead of the run's environment {spec.interpreter}")
    try:
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            call = _call_in_debugger if debug else _call
            result = run_mini_batch(directory, spec, mini_batch, call, lambda text: notify(escape_control_chars(text)))
    except (ParallelRunError, BrokenOutputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  any error of the script is the result of a replay
        traceback.print_exception(error)
        if as_json:
            emit_json({"mini_batch": mini_batch, "error": {"type": type(error).__name__, "message": str(error)}})
        return Exit.FAILED
    rows = result.to_string() if hasattr(result, "to_string") else "\n".join(str(row) for row in result)
    emit_result(rows, {"mini_batch": mini_batch, "rows": len(result), "result": rows}, as_json=as_json)
    return Exit.SUCCESS


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _call_in_debugger(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and open the debugger where it raises."""
    try:
        return function(*arguments)
    except BaseException as error:
        traceback.print_exception(error)
        pdb.post_mortem(error.__traceback__)
        raise
