"""``report``: writes a run's report as one HTML page."""

from __future__ import annotations

import argparse
import importlib
import webbrowser
from pathlib import Path
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_run_command, open_run


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Write a run's report.html again from its current ledger and logs."
    command = add_run_command(commands, "report", _report, help_text)
    command.add_argument("--output", metavar="FILE", help="write to this file instead")
    command.add_argument("--open", action="store_true", help="open the report in a browser")


def _report(args: argparse.Namespace) -> int:
    directory = open_run(args.run_directory, metadata_only=True, verify_plan=True)
    # Late: templates and Arrow, which --help does not need.
    write_report = importlib.import_module("prefect_parallel_run.monitoring.report").write_report
    page = Path(write_report(directory, None if args.output is None else Path(args.output))).absolute()
    if args.open:
        webbrowser.open(page.as_uri())
    if args.json:
        emit_json({"run": directory.run_id, "report": str(page)})
    else:
        emit(str(page))
    return Exit.SUCCESS
