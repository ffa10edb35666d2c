"""``verify``: recomputes a run's receipt."""

from __future__ import annotations

import argparse
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_run_command, open_run


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Recompute a run's receipt from plan, ledger, parts and result."
    add_run_command(commands, "verify", _verify, help_text, description=f"{help_text} Exit code 1 if there is a problem.")


def _verify(args: argparse.Namespace) -> int:
    from prefect_parallel_run.execution.verify import problems, summary

    directory = open_run(args.run_directory)
    found = list(problems(directory))
    if args.json:
        emit_json({**summary(directory), "problems": found})
    else:
        emit("\n".join(found) or f"{directory.run_id}: plan, ledger, parts and result agree")
    return Exit.FAILED if found else Exit.SUCCESS
