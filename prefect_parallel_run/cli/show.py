"""``show``: prints the progress of a run, and follows it while it executes. ``list``: the runs of an output."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from prefect_parallel_run._units import count
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._command import Exit, emit, emit_json, emit_result
from prefect_parallel_run.cli._run_command import RunCommand, emit_styled, open_run, open_run_directory
from prefect_parallel_run.errors import InputError, ParallelRunError
from prefect_parallel_run.monitoring.progress import LogThrottle
from prefect_parallel_run.monitoring.status import RunStatus, as_plain, read_status, status_lines, status_of, status_summary
from prefect_parallel_run.monitoring.terminal import can_redraw, console_of, fit_to_terminal
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import active_owner, run_names
from prefect_parallel_run.runs.run_directory import parse_json, runs_below
from prefect_parallel_run.storage.objects import read
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_POLL_INTERVAL = 1.0  #: s between two reads, at least
_FETCH_INTERVAL = 15.0  #: s between two fetches of a run in a store
_IDLE_FACTOR = 5  #: pause at least this many times as long as a read takes: a large ledger takes long to read
_FOLLOW = "Keep printing until the run ends (default at a terminal); with --json, print one line of JSON each time."
_STYLES = {"succeeded": "green", "failed": "red", "unreadable": "red", "running": "bold"}  #: by status


@click.command(cls=RunCommand)
@click.option("-f", "--follow/--no-follow", default=None, help=_FOLLOW)
def show(run_directory: str, follow: bool | None, as_json: bool) -> Exit:
    """Print the progress of a run; at a terminal, follow it while it executes."""
    read = status_reader(run_directory)
    status = read()
    redraws = can_redraw(sys.stdout) and not as_json
    if status.owner is None or not (redraws if follow is None else follow):
        _print(status, as_json=as_json)
        return Exit.SUCCESS
    try:
        if redraws:
            _redraw(status, read)
        else:
            _print_periodically(status, read, as_json=as_json)
    except KeyboardInterrupt:  # Ctrl-C stops only this command
        return Exit.CANCELLED
    return Exit.SUCCESS


def status_reader(path: str) -> Callable[[], RunStatus]:
    """Return a function that reads the run's current status; for a run in a store, it refreshes the local copy regularly."""
    directory = open_run(path, metadata_only=True)
    if not is_remote(path):
        return lambda: read_status(directory, time.time())
    url = f"{path.rstrip('/').partition(f'/{RUNS_FOLDER}')[0]}/{RUNS_FOLDER}/{directory.run_id}"
    fetched = time.monotonic()

    def read_remote() -> RunStatus:
        nonlocal fetched
        if time.monotonic() - fetched >= _FETCH_INTERVAL:
            open_run_directory(url, parts=False)
            fetched = time.monotonic()
        return read_status(directory, time.time(), active_owner(url))

    return read_remote


def _print(status: RunStatus, *, as_json: bool) -> None:
    emit_result("\n".join(status_lines(status, time.time())), as_plain(status), as_json=as_json)


def _redraw(status: RunStatus, read: Callable[[], RunStatus]) -> None:
    """Redraw the status in place while the run executes, then print it in full."""
    console = console_of(sys.stdout)
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while status.owner is not None:
            fit_to_terminal(console)
            lines = status_lines(status, time.time(), console.width - 1, ascii_only=console.options.ascii_only)
            text = Text("\n".join(lines))
            text.highlight_regex("━+|##+", "green")
            text.highlight_regex("─+", "dim")
            live.update(text, refresh=True)
            status = _poll(read)
    _print(status, as_json=False)


def _print_periodically(status: RunStatus, read: Callable[[], RunStatus], *, as_json: bool) -> None:
    """Print a line every 30 s or 5 % while the run executes."""

    def print_line() -> None:
        emit(json.dumps(as_plain(status)) if as_json else status_summary(status))

    print_line()
    throttle = LogThrottle(time.monotonic())
    while status.owner is not None:
        status = _poll(read)
        if status.owner is not None and throttle.is_due(status.tally, time.monotonic()):
            print_line()
    print_line()


def _poll(read: Callable[[], RunStatus]) -> RunStatus:
    began = time.monotonic()
    time.sleep(_POLL_INTERVAL)
    status = read()
    took = time.monotonic() - began - _POLL_INTERVAL
    time.sleep(max(took * _IDLE_FACTOR - _POLL_INTERVAL, 0.0))
    return status


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
                created = directory.metadata().get("created", "")
                yield {**identity, "created": created, "status": status, **ledger.tally().by_outcome()}
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
