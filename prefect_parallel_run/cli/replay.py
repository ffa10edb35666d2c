"""``replay``: one mini-batch of a run, in the foreground, for a person to look at or to debug."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json, say
from prefect_parallel_run.cli._run_argument import add_run_command, open_run
from prefect_parallel_run.errors import ParallelRunError


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Run one mini-batch in the foreground, without a cluster; the ledger is not touched."
    command = add_run_command(commands, "replay", _replay, words)
    command.add_argument("--mini-batch", type=int, required=True, metavar="N", help="its number, from 0")
    command.add_argument("--pdb", action="store_true", help="stop in the debugger where the script raises")


def _replay(given: argparse.Namespace) -> int:
    from prefect_parallel_run.execution.replay import replay  # noqa: PLC0415  pandas and Arrow, which --help does not need
    from prefect_parallel_run.execution.resume import spec_of  # noqa: PLC0415  the same

    directory = open_run(given.run_directory, reads_plan=True)
    spec = spec_of(directory, {})
    if spec.interpreter is not None:
        say(f"replayed by {sys.executable}, not by the run's environment {spec.interpreter}")
    try:
        with redirect_stdout(sys.stderr if given.json else sys.stdout):
            result = replay(directory, spec, given.mini_batch, _debugged if given.pdb else _called, _say)
    except (ParallelRunError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  whatever the script raised is what the person wants to see
        traceback.print_exception(error)
        if given.json:
            emit_json({"mini_batch": given.mini_batch, "error": {"type": type(error).__name__, "message": str(error)}})
        return Exit.FAILED
    rows = result.to_string() if hasattr(result, "to_string") else "\n".join(str(row) for row in result)
    if given.json:
        emit_json({"mini_batch": given.mini_batch, "rows": len(result), "result": rows})
    else:
        emit(rows)
    return Exit.WELL


def _say(text: str) -> None:
    from prefect_parallel_run.monitoring.logs import escape_control_chars  # noqa: PLC0415  the same

    say(escape_control_chars(text))


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _debugged(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and stop in the debugger where it raises."""
    try:
        return function(*arguments)
    except BaseException as error:
        import pdb  # noqa: PLC0415  what was asked for

        traceback.print_exception(error)
        pdb.post_mortem(error.__traceback__)
        raise
