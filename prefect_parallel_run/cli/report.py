"""``report``: writes a run's report as one HTML page. ``verify``: recomputes its receipt."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from prefect_parallel_run.cli._command import Exit, emit_result
from prefect_parallel_run.cli._run_command import RunCommand, open_run
from prefect_parallel_run.execution.verify import problems, summary
from prefect_parallel_run.monitoring.report import write_report


@click.command(cls=RunCommand)
@click.option("--output", metavar="FILE", help="File to write (default: report.html in the run directory).")
@click.option("--open", "open_page", is_flag=True, help="Open the report in a browser.")
def report(run_directory: str, output: str | None, open_page: bool, as_json: bool) -> None:
    """Write the report of a run from its current ledger and logs."""
    directory = open_run(run_directory, metadata_only=True, verify_plan=True)
    page = Path(write_report(directory, None if output is None else Path(output))).absolute()
    if open_page:
        webbrowser.open(page.as_uri())
    emit_result(str(page), {"run": directory.run_id, "report": str(page)}, as_json=as_json)


@click.command(cls=RunCommand)
def verify(run_directory: str, as_json: bool) -> Exit:
    """Recompute a run's receipt from plan, ledger, parts and result. The exit code is 1 if there is a problem."""
    directory = open_run(run_directory)
    found = list(problems(directory))
    text = "\n".join(found) or f"{directory.run_id}: plan, ledger, parts and result agree"
    emit_result(text, {**summary(directory), "problems": found}, as_json=as_json)
    return Exit.FAILED if found else Exit.SUCCESS
