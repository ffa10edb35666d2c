"""``verify``: recomputes a run's receipt."""

from __future__ import annotations

import click

from prefect_parallel_run.cli._command import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_command import RunCommand, open_run
from prefect_parallel_run.execution.verify import problems, summary


@click.command(cls=RunCommand)
def verify(run_directory: str, as_json: bool) -> Exit:
    """Recompute a run's receipt from plan, ledger, parts and result. Exit code 1 if there is a problem."""
    directory = open_run(run_directory)
    found = list(problems(directory))
    if as_json:
        emit_json({**summary(directory), "problems": found})
    else:
        emit("\n".join(found) or f"{directory.run_id}: plan, ledger, parts and result agree")
    return Exit.FAILED if found else Exit.SUCCESS
