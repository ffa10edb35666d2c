"""``replay``: runs one mini-batch of a run in the foreground, for inspection or debugging."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json, notify
from prefect_parallel_run.cli._run_argument import add_run_command, open_run
from prefect_parallel_run.errors import ParallelRunError


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Run one mini-batch in the foreground, without a cluster; the ledger is not changed."
    command = add_run_command(commands, "replay", _replay, help_text)
    command.add_argument("--mini-batch", type=int, required=True, metavar="N", help="mini-batch number, starting at 0")
    command.add_argument("--pdb", action="store_true", help="stop in the debugger where the script raises")


def _replay(args: argparse.Namespace) -> int:
    from prefect_parallel_run.execution.replay import replay
    from prefect_parallel_run.execution.resume import spec_of

    directory = open_run(args.run_directory, verify_plan=True)
    spec = spec_of(directory, {})
    if spec.interpreter is not None:
        notify(f"replaying with {sys.executable} instead of the run's environment {spec.interpreter}")
    try:
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            result = replay(directory, spec, args.mini_batch, _call_in_debugger if args.pdb else _call, _notify)
    except (ParallelRunError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  any error of the script is the result of a replay
        traceback.print_exception(error)
        if args.json:
            emit_json({"mini_batch": args.mini_batch, "error": {"type": type(error).__name__, "message": str(error)}})
        return Exit.FAILED
    rows = result.to_string() if hasattr(result, "to_string") else "\n".join(str(row) for row in result)
    if args.json:
        emit_json({"mini_batch": args.mini_batch, "rows": len(result), "result": rows})
    else:
        emit(rows)
    return Exit.SUCCESS


def _notify(text: str) -> None:
    from prefect_parallel_run.monitoring.logs import escape_control_chars

    notify(escape_control_chars(text))


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _call_in_debugger(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and open the debugger where it raises."""
    try:
        return function(*arguments)
    except BaseException as error:
        import pdb

        traceback.print_exception(error)
        pdb.post_mortem(error.__traceback__)
        raise
