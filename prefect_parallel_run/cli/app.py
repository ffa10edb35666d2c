"""The program: its commands, how it ends, and what it says when something goes wrong."""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

from prefect_parallel_run.cli._exit_codes import BrokenOutputError, Exit, exit_of, table
from prefect_parallel_run.cli._output import PROGRAM, emit_json, say, suggest
from prefect_parallel_run.cli.step_options import split_arguments
from prefect_parallel_run.errors import ParallelRunError

#: Modules of this package with a function ``add_to(commands)`` that adds one command or more, in the order of --help. Such a
#: function calls ``commands.add_parser(…)`` and ``set_defaults(do=…)`` with a function from the parsed options to an exit code.
COMMANDS = ("run", "plan", "show", "runs", "failed", "control", "resume", "replay", "verify", "report", "azure_import")

_WORDS = "Parallel batch processing as a Prefect task: run a script over a large input, look at a run, go on with it, check it."
_AFTER = f"""\
RUN_DIR is <output>/_parallel_run/<run>, a path or a URL; of an output folder the newest run is taken.
With --json, stdout has one JSON document and nothing else; an error is {{"error": {{"type", "message", …}}, "next": […]}}.

exit codes:
{table()}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    own, behind = split_arguments(sys.argv[1:] if arguments is None else arguments)
    made = parser()
    given = made.parse_args(own)
    if behind and not hasattr(given, "config"):
        made.error("arguments behind -- are for the scripts of run and plan")
    given.next, given.place, given.arguments = [], None, behind
    try:
        return int(_done(given))
    except (KeyboardInterrupt, BrokenOutputError, ParallelRunError, sqlite3.Error, OSError, ValueError) as error:
        code = exit_of(error)
        if code is None:
            raise
        if code is not Exit.READER_GONE:
            _tell(error, given)
        return int(code)


def _done(given: argparse.Namespace) -> int:
    """Do a command; what fails because a file of its run directory is damaged is the error that says so."""
    try:
        return int(given.do(given))
    except (sqlite3.Error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        if hasattr(given, "run_directory"):
            # Late: Arrow, which a command that does well may not need.
            importlib.import_module("prefect_parallel_run.cli._run_argument").raise_if_damaged(given.run_directory)
        raise


def parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    made = argparse.ArgumentParser(
        prog=PROGRAM, description=_WORDS, epilog=_AFTER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"prefect_parallel_run.cli.{name}").add_to(commands)
    return made


def _tell(error: BaseException, given: argparse.Namespace) -> None:
    """Say what went wrong: in words on stderr, and as JSON where that is wanted."""
    message = _message(error, given)
    say(message)
    if given.next:
        suggest(*given.next)
    if getattr(given, "json", False):
        kind = "Cancelled" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        try:
            emit_json(
                {"error": {"type": kind, "message": message, **_facts(error)}, "next": [words for words, _ in given.next]}
            )
        except BrokenOutputError:
            return


def _message(error: BaseException, given: argparse.Namespace) -> str:
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "cancelled"
    if isinstance(error, ParallelRunError):
        return f"{type(error).__name__}: {error}"
    place = getattr(given, "run_directory", "")
    if isinstance(error, sqlite3.Error):
        return f"{place}: its ledger cannot be read: {error}"
    if isinstance(error, OSError):
        place = str(error.filename or place)
        return f"{place}: {error.strerror or error}" if place and error.strerror else str(error)
    return str(error)


def _facts(error: BaseException) -> dict[str, Any]:
    """Return the facts of an error of ours."""
    return dict(vars(error)) if isinstance(error, ParallelRunError) else {}
