"""``control``: an order to a run that goes on, and what becomes of it."""

from __future__ import annotations

import argparse
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_run_command, resolve_run
from prefect_parallel_run.runs.commands import FIELDS, PROCESSES


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Pause a run that goes on, or change its limits or the number of its processes."
    command = add_run_command(commands, "control", _control, words)
    kinds = command.add_subparsers(dest="kind", required=True, metavar="ORDER")

    def kind(name: str, words: str) -> argparse.ArgumentParser:
        made = kinds.add_parser(name, help=words, description=words)
        made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        return made

    kind("pause", "Begin no further mini-batch; those that run go on.")
    kind("continue", "Begin mini-batches again.")
    limits = kind("limits", "Forgive more, or less, from now on.")
    limits.add_argument("--error-threshold", type=int, metavar="N", help="failed items; -1 forgives all")
    limits.add_argument("--allowed-failed-count", type=int, metavar="N", help="failed mini-batches; -1 forgives all")
    limits.add_argument("--allowed-failed-percent", type=float, metavar="X", help="the same in percent; 100 forgives all")
    kind("processes", "Have another number of processes on every node.").add_argument(PROCESSES, type=int, metavar="N")


def _control(given: argparse.Namespace) -> int:
    """Give the order; it ends well when that is applied."""
    from prefect_parallel_run.cli._commands import give  # noqa: PLC0415  stores, which --help does not need

    values = {name: value for name in FIELDS[given.kind] if (value := getattr(given, name)) is not None}
    answer = give(resolve_run(given.run_directory), given.kind, values)
    if given.json:
        emit_json(answer)
    else:
        emit(answer["answer"])
    return Exit.WELL if answer["applied"] else Exit.FAILED
