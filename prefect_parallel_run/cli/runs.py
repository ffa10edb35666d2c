"""``list``: the runs of an output, the newest first."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_json
from prefect_parallel_run.errors import InputError, ParallelRunError
from prefect_parallel_run.units import count

_COLUMNS = ("status", "created", "mini_batches", "failed_items", "run")


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "List the runs of an output, the newest first: state, when it was begun, mini-batches finished, items failed."
    command = commands.add_parser("list", help=words, description=words)
    command.add_argument("run_directory", metavar="OUTPUT", help="folder or URL that was given as a step's output")
    add_json(command)
    command.set_defaults(do=_list)


def _list(given: argparse.Namespace) -> int:
    from prefect_parallel_run.child.storage import is_remote  # noqa: PLC0415  not for --help
    from prefect_parallel_run.runs.run_directory import FOLDER  # noqa: PLC0415  the same

    output = given.run_directory.rstrip("/").removesuffix(f"/{FOLDER}")
    found = list(_in_store(output) if is_remote(output) else _in_folder(output))
    if not found:
        raise InputError(given.run_directory, "has no runs in it: it is no step's output")
    if given.json:
        emit_json(found)
    else:
        emit("\n".join(table([[_cell(run, column) for column in _COLUMNS] for run in found])))
    return Exit.WELL


def table(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines with columns one below the other.

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


def _in_folder(output: str) -> Iterator[dict[str, Any]]:
    from prefect_parallel_run.monitoring.status import status_of  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.ledger import Ledger  # noqa: PLC0415  not for --help
    from prefect_parallel_run.runs.run_directory import FOLDER, runs_below  # noqa: PLC0415  the same

    for found in runs_below(Path(output).absolute() / FOLDER, ""):
        about = {"run": found.run_id, "run_directory": str(found.path)}
        try:
            with Ledger(found.ledger) as ledger:
                status = status_of(ledger.facts(), is_driven=found.driver() is not None)
                yield {**about, "created": found.facts().get("created", ""), "status": status, **ledger.tally().by_outcome()}
        except (ParallelRunError, sqlite3.Error, ValueError) as error:
            nothing = {"items": None, "mini_batches": None, "rows": None}
            yield {**about, "created": "", "status": "unreadable", "reason": str(error), **nothing}


def _in_store(output: str) -> Iterator[dict[str, Any]]:
    """Yield what can be told without fetching a ledger; counts are those of finished runs."""
    from prefect_parallel_run.runs.copies import driver_of, names_of_runs  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.run_directory import FOLDER, parse_json  # noqa: PLC0415  the same
    from prefect_parallel_run.storage.objects import read  # noqa: PLC0415  the same

    for name in names_of_runs(output):
        url = f"{output}/{FOLDER}/{name}"
        facts = parse_json(read(f"{url}/run.json"), f"{url}/run.json")
        try:
            receipt = parse_json(read(f"{url}/receipt.json"), f"{url}/receipt.json")
            status = "succeeded"
        except FileNotFoundError:
            receipt = {"items": None, "mini_batches": None, "rows": None}
            status = "unfinished" if driver_of(url) is None else "running"
        known = {key: receipt[key] for key in ("items", "mini_batches", "rows")}
        yield {"run": name, "run_directory": url, "created": facts.get("created", ""), "status": status, **known}
