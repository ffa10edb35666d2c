"""``list``: the runs of an output, newest first."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run._units import count
from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_json
from prefect_parallel_run.errors import InputError, ParallelRunError

_COLUMNS = ("status", "created", "mini_batches", "failed_items", "run")


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "List the runs of an output, newest first: status, creation time, finished mini-batches, failed items."
    command = commands.add_parser("list", help=help_text, description=help_text)
    command.add_argument("run_directory", metavar="OUTPUT", help="a step's output folder or URL")
    add_json(command)
    command.set_defaults(handler=_list)


def _list(args: argparse.Namespace) -> int:
    from prefect_parallel_run.child.storage import is_remote
    from prefect_parallel_run.storage.paths import RUNS_FOLDER

    output = args.run_directory.rstrip("/").removesuffix(f"/{RUNS_FOLDER}")
    runs = list(_remote_runs(output) if is_remote(output) else _local_runs(output))
    if not runs:
        raise InputError(args.run_directory, "contains no runs; expected a step's output")
    if args.json:
        emit_json(runs)
    else:
        emit("\n".join(table([[_cell(run, column) for column in _COLUMNS] for run in runs])))
    return Exit.SUCCESS


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
    from prefect_parallel_run.monitoring.status import status_of
    from prefect_parallel_run.runs.ledger import Ledger
    from prefect_parallel_run.runs.run_directory import runs_below
    from prefect_parallel_run.storage.paths import RUNS_FOLDER

    for directory in runs_below(Path(output).absolute() / RUNS_FOLDER, ""):
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
    from prefect_parallel_run.runs.copies import active_owner, run_names
    from prefect_parallel_run.runs.run_directory import parse_json
    from prefect_parallel_run.storage.objects import read
    from prefect_parallel_run.storage.paths import RUNS_FOLDER

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
