"""``verify``: a run's receipt, recomputed."""

from __future__ import annotations

import argparse
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_run_command, open_run


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Recompute a run's receipt from plan, ledger, parts and result."
    more = f"{words} Exit code 1 when something is not as it should be."
    add_run_command(commands, "verify", _verify, words, description=more)


def _verify(given: argparse.Namespace) -> int:
    from prefect_parallel_run.execution.verify import problems, summary  # noqa: PLC0415  pandas and Arrow, which --help does not need

    directory = open_run(given.run_directory)
    found = list(problems(directory))
    if given.json:
        emit_json({**summary(directory), "problems": found})
    else:
        emit("\n".join(found) or f"{directory.run_id}: plan, ledger, parts and result agree")
    return Exit.FAILED if found else Exit.WELL
