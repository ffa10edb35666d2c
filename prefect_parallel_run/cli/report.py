"""``report``: the run as one page."""

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
    words = "Write a run's report.html anew, as its ledger and logs have it now."
    command = add_run_command(commands, "report", _report, words)
    command.add_argument("--output", metavar="FILE", help="write it to this file instead")
    command.add_argument("--open", action="store_true", help="open it in a browser")


def _report(given: argparse.Namespace) -> int:
    directory = open_run(given.run_directory, to_look_at=True, reads_plan=True)
    # Late: templates and Arrow, which --help does not need.
    write_report = importlib.import_module("prefect_parallel_run.monitoring.report").write_report
    page = Path(write_report(directory, None if given.output is None else Path(given.output))).absolute()
    if given.open:
        webbrowser.open(page.as_uri())
    if given.json:
        emit_json({"run": directory.run_id, "report": str(page)})
    else:
        emit(str(page))
    return Exit.WELL
