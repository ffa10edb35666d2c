"""``list``: the runs of an output, newest first."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from prefect_parallel_run._units import count
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._output import emit_json
from prefect_parallel_run.cli._run_command import RunCommand, emit_styled
from prefect_parallel_run.errors import InputError, ParallelRunError
from prefect_parallel_run.monitoring.status import status_of
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import active_owner, run_names
from prefect_parallel_run.runs.run_directory import parse_json, runs_below
from prefect_parallel_run.storage.objects import read
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_STYLES = {"succeeded": "green", "failed": "red", "unreadable": "red", "running": "bold"}  #: by status


@click.command("list", cls=RunCommand, metavar="OUTPUT")
def list_runs(run_directory: str, as_json: bool) -> None:
    """List the runs of an output, newest first: status, creation time, finished mini-batches, failed items.

    OUTPUT is a step's output folder or URL.
    """
    output = run_directory.rstrip("/").removesuffix(f"/{RUNS_FOLDER}")
    runs = list(_remote_runs(output) if is_remote(output) else _local_runs(output))
    if not runs:
        raise InputError(run_directory, "contains no runs; expected a step's output")
    if as_json:
        emit_json(runs)
    else:
        emit_styled(_table(runs))


def _table(runs: list[dict[str, Any]]) -> Table:
    """Return a table of the runs, with headings at a terminal."""
    has_headings = sys.stdout.isatty()
    suffix = "" if has_headings else " failed"
    table = Table(box=None, pad_edge=False, show_header=has_headings)
    for heading in ("status", "created", "mini-batches", "failed"):
        table.add_column(heading, no_wrap=True)
    table.add_column("run", overflow="fold")
    for run in runs:
        batches, items = run["mini_batches"], run["items"]
        finished = "" if batches is None else f"{batches['succeeded'] + batches['failed']} of {batches['total']}"
        failures = count(items["failed"], "item") if items is not None and items["failed"] else ""
        status = Text(run["status"], _STYLES.get(run["status"], ""))
        table.add_row(status, run["created"], finished, Text(failures and f"{failures}{suffix}", "red"), run["run"])
    return table


def _local_runs(output: str) -> Iterator[dict[str, Any]]:
    for directory in runs_below(Path(output).absolute() / RUNS_FOLDER, ""):
        identity = {"run": directory.run_id, "run_directory": str(directory.path)}
        try:
            with Ledger(directory.ledger) as ledger:
                status = status_of(ledger.metadata(), has_owner=directory.owner() is not None)
                yield {
                    **identity,
                    "created": directory.metadata().get("created", ""),
                    "status": status,
                    **ledger.tally().by_outcome(),
                }
        except (ParallelRunError, sqlite3.Error, ValueError) as error:
            no_counts = {"items": None, "mini_batches": None, "rows": None}
            yield {**identity, "created": "", "status": "unreadable", "reason": str(error), **no_counts}


def _remote_runs(output: str) -> Iterator[dict[str, Any]]:
    """Yield runs without fetching a ledger; only finished runs have counts."""
    for name in run_names(output):
        url = f"{output}/{RUNS_FOLDER}/{name}"
        description = parse_json(read(f"{url}/run.json"), f"{url}/run.json")
        try:
            receipt = parse_json(read(f"{url}/receipt.json"), f"{url}/receipt.json")
            status = "succeeded"
        except FileNotFoundError:
            receipt = {"items": None, "mini_batches": None, "rows": None}
            status = "unfinished" if active_owner(url) is None else "running"
        counts = {key: receipt[key] for key in ("items", "mini_batches", "rows")}
        yield {"run": name, "run_directory": url, "created": description.get("created", ""), "status": status, **counts}
