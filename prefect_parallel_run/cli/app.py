"""The program: assembles the commands, runs one, and reports its errors."""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

from prefect_parallel_run.cli._exit_codes import BrokenOutputError, Exit, exit_code_of, table
from prefect_parallel_run.cli._output import PROGRAM, emit_json, notify, suggest
from prefect_parallel_run.cli.step_options import split_arguments
from prefect_parallel_run.errors import ParallelRunError

#: Modules of this package with a function ``add_to(commands)`` that adds one command or more, in the order of --help. It calls
#: ``commands.add_parser(…)`` and ``set_defaults(handler=…)`` with a function from the parsed options to an exit code.
COMMANDS = ("run", "plan", "show", "runs", "failed", "control", "resume", "replay", "verify", "report", "azure_import")

_DESCRIPTION = "Parallel batch processing as a Prefect task: run a script over a large input; inspect, resume and verify runs."
_EPILOG = f"""\
RUN_DIR is <output>/_parallel_run/<run> as a path or URL; an output folder stands for its newest run.
With --json, stdout has exactly one JSON document; an error is {{"error": {{"type", "message", …}}, "next": […]}}.

exit codes:
{table()}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    own_arguments, script_arguments = split_arguments(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    args = parser.parse_args(own_arguments)
    if script_arguments and not hasattr(args, "config"):
        parser.error("arguments after -- are only for the commands run and plan, which pass them to the script")
    args.next, args.run_path, args.arguments = [], None, script_arguments
    try:
        return int(_run_command(args))
    except (KeyboardInterrupt, BrokenOutputError, ParallelRunError, sqlite3.Error, OSError, ValueError) as error:
        code = exit_code_of(error)
        if code is None:
            raise
        if code is not Exit.BROKEN_PIPE:
            _report_error(error, args)
        return int(code)


def _run_command(args: argparse.Namespace) -> int:
    """Run a command; report a damaged file of its run directory instead of the error that it caused."""
    try:
        return int(args.handler(args))
    except (sqlite3.Error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        if hasattr(args, "run_directory"):
            # Late: this imports Arrow, which a successful command may not need.
            importlib.import_module("prefect_parallel_run.cli._run_argument").raise_if_damaged(args.run_directory)
        raise


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"prefect_parallel_run.cli.{name}").add_to(commands)
    return parser


def _report_error(error: BaseException, args: argparse.Namespace) -> None:
    """Print the error on stderr, and with --json also as JSON on stdout."""
    message = _message(error, args)
    notify(message)
    if args.next:
        suggest(*args.next)
    if getattr(args, "json", False):
        kind = "Cancelled" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        try:
            emit_json(
                {"error": {"type": kind, "message": message, **_attributes(error)}, "next": [line for line, _ in args.next]}
            )
        except BrokenOutputError:
            return


def _message(error: BaseException, args: argparse.Namespace) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "cancelled"
    if isinstance(error, ParallelRunError):
        return f"{type(error).__name__}: {error}"
    path = getattr(args, "run_directory", "")
    if isinstance(error, sqlite3.Error):
        return f"{path}: the ledger cannot be read: {error}"
    if isinstance(error, OSError):
        path = str(error.filename or path)
        return f"{path}: {error.strerror or error}" if path and error.strerror else str(error)
    return str(error)


def _attributes(error: BaseException) -> dict[str, Any]:
    """Return the attributes of an error of this package, for --json."""
    return dict(vars(error)) if isinstance(error, ParallelRunError) else {}
