"""``control``: sends a command to a running step and prints the answer."""

from __future__ import annotations

import argparse
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_run_command, resolve_run
from prefect_parallel_run.runs.commands import FIELDS, PROCESSES


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Pause a running step, or change its limits or its number of processes."
    command = add_run_command(commands, "control", _control, help_text)
    kinds = command.add_subparsers(dest="kind", required=True, metavar="COMMAND")

    def kind(name: str, help_text: str) -> argparse.ArgumentParser:
        parser = kinds.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        return parser

    kind("pause", "Start no further mini-batch; running ones continue.")
    kind("continue", "Start mini-batches again.")
    limits = kind("limits", "Change the failure limits from now on.")
    limits.add_argument("--error-threshold", type=int, metavar="N", help="failed items allowed; -1 for no limit")
    limits.add_argument("--allowed-failed-count", type=int, metavar="N", help="failed mini-batches allowed; -1 for no limit")
    limits.add_argument(
        "--allowed-failed-percent", type=float, metavar="X", help="percentage of failed mini-batches allowed; 100 for no limit"
    )
    kind("processes", "Change the number of processes per node.").add_argument(PROCESSES, type=int, metavar="N")


def _control(args: argparse.Namespace) -> int:
    """Send the command; succeed only if it was applied."""
    from prefect_parallel_run.cli._commands import send_command

    values = {name: value for name in FIELDS[args.kind] if (value := getattr(args, name)) is not None}
    answer = send_command(resolve_run(args.run_directory), args.kind, values)
    if args.json:
        emit_json(answer)
    else:
        emit(answer["answer"])
    return Exit.SUCCESS if answer["applied"] else Exit.FAILED
