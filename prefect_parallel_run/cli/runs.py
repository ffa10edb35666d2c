"""``list``: the runs of an output, newest first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_command import RunCommand
from prefect_parallel_run.errors import InputError, ParallelRunError
from prefect_parallel_run.monitoring.status import status_of
from prefect_parallel_run.runs.copies import active_owner, run_names
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import FOLDER, parse_json, runs_below
from prefect_parallel_run.storage.objects import read
from prefect_parallel_run.units import count

_COLUMNS = ("status", "created", "mini_batches", "failed_items", "run")


@click.command("list", cls=RunCommand, metavar="OUTPUT")
def list_runs(run_directory: str, as_json: bool) -> None:
    """List the runs of an output, newest first: status, creation time, finished mini-batches, failed items.

    OUTPUT is a step's output folder or URL.
    """
    output = run_directory.rstrip("/").removesuffix(f"/{FOLDER}")
    runs = list(_remote_runs(output) if is_remote(output) else _local_runs(output))
    if not runs:
        raise InputError(run_directory, "contains no runs; expected a step's output")
    if as_json:
        emit_json(runs)
    else:
        emit("\n".join(table([[_cell(run, column) for column in _COLUMNS] for run in runs])))


def table(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns.

    >>> table([["failed", "a"], ["ok", "b"]])
    ['failed  a', 'ok      b']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(run: dict[str, Any], column: str) -> str:
    if column == "mini_batches":
        counts = run[column]
        return "" if counts is None else f"{counts['succeeded'] + counts['failed']} of {counts['total']}"
    if column == "failed_items":
        failed = run["items"]["failed"] if run["items"] is not None else 0
        return f"{count(failed, 'item')} failed" if failed else ""
    return str(run[column])


def _local_runs(output: str) -> Iterator[dict[str, Any]]:
    for directory in runs_below(Path(output).absolute() / FOLDER, ""):
        identity = {"run": directory.run_id, "run_directory": str(directory.path)}
        try:
            with Ledger(directory.ledger) as ledger:
                status = status_of(ledger.facts(), is_driven=directory.driver() is not None)
                yield {
                    **identity,
                    "created": directory.facts().get("created", ""),
                    "status": status,
                    **ledger.tally().by_outcome(),
                }
        except (ParallelRunError, sqlite3.Error, ValueError) as error:
            no_counts = {"items": None, "mini_batches": None, "rows": None}
            yield {**identity, "created": "", "status": "unreadable", "reason": str(error), **no_counts}


def _remote_runs(output: str) -> Iterator[dict[str, Any]]:
    """Yield runs without fetching a ledger; only finished runs have counts."""
    for name in run_names(output):
        url = f"{output}/{FOLDER}/{name}"
        description = parse_json(read(f"{url}/run.json"), f"{url}/run.json")
        try:
            receipt = parse_json(read(f"{url}/receipt.json"), f"{url}/receipt.json")
            status = "succeeded"
        except FileNotFoundError:
            receipt = {"items": None, "mini_batches": None, "rows": None}
            status = "unfinished" if active_owner(url) is None else "running"
        counts = {key: receipt[key] for key in ("items", "mini_batches", "rows")}
        yield {"run": name, "run_directory": url, "created": description.get("created", ""), "status": status, **counts}
