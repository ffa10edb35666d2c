"""``show``: prints the progress of a run, and follows it while it executes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import click
from rich.live import Live
from rich.text import Text

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._command import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_command import RunCommand, open_run, open_run_directory
from prefect_parallel_run.monitoring.progress import LogThrottle
from prefect_parallel_run.monitoring.status import RunStatus, as_plain, look
from prefect_parallel_run.monitoring.status_line import can_redraw, console_of, fit_to_terminal
from prefect_parallel_run.monitoring.status_text import status_lines, status_summary
from prefect_parallel_run.runs.mirror import active_owner
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_POLL_INTERVAL = 1.0  #: s between two reads, at least
_FETCH_INTERVAL = 15.0  #: s between two fetches of a run in a store
_IDLE_FACTOR = 5  #: pause that many times as long as a read takes: a ledger of millions is not read all the time
_FOLLOW = "Keep printing until the run ends (default: at a terminal); with --json, one line of JSON each time."


@click.command(cls=RunCommand)
@click.option("-f", "--follow/--no-follow", default=None, help=_FOLLOW)
def show(run_directory: str, follow: bool | None, as_json: bool) -> Exit:
    """Print the progress of a run; at a terminal, follow it while it executes."""
    read_status = status_reader(run_directory)
    status = read_status()
    redraws = can_redraw(sys.stdout) and not as_json
    if status.owner is None or not (redraws if follow is None else follow):
        _print(status, as_json=as_json)
        return Exit.SUCCESS
    try:
        if redraws:
            _redraw(status, read_status)
        else:
            _print_periodically(status, read_status, as_json=as_json)
    except KeyboardInterrupt:  # Ctrl-C stops only this command
        return Exit.CANCELLED
    return Exit.SUCCESS


def status_reader(path: str) -> Callable[[], RunStatus]:
    """Return a function that reads the run's current status; for a run in a store, it refreshes the local copy regularly."""
    directory = open_run(path, metadata_only=True)
    if not is_remote(path):
        return lambda: look(directory, time.time())
    url = f"{path.rstrip('/').partition(f'/{RUNS_FOLDER}')[0]}/{RUNS_FOLDER}/{directory.run_id}"
    fetched = time.monotonic()

    def read_remote() -> RunStatus:
        nonlocal fetched
        if time.monotonic() - fetched >= _FETCH_INTERVAL:
            open_run_directory(url, parts=False)
            fetched = time.monotonic()
        return look(directory, time.time(), active_owner(url))

    return read_remote


def _print(status: RunStatus, *, as_json: bool) -> None:
    if as_json:
        emit_json(as_plain(status))
    else:
        emit("\n".join(status_lines(status, time.time())))


def _redraw(status: RunStatus, read_status: Callable[[], RunStatus]) -> None:
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
            status = _poll(read_status)
    _print(status, as_json=False)


def _print_periodically(status: RunStatus, read_status: Callable[[], RunStatus], *, as_json: bool) -> None:
    """Print a line every 30 s or 5 % while the run executes."""

    def print_line() -> None:
        emit(json.dumps(as_plain(status)) if as_json else status_summary(status))

    print_line()
    throttle = LogThrottle(time.monotonic())
    while status.owner is not None:
        status = _poll(read_status)
        if status.owner is not None and throttle.is_due(status.tally, time.monotonic()):
            print_line()
    print_line()


def _poll(read_status: Callable[[], RunStatus]) -> RunStatus:
    began = time.monotonic()
    time.sleep(_POLL_INTERVAL)
    status = read_status()
    took = time.monotonic() - began - _POLL_INTERVAL
    time.sleep(max(took * _IDLE_FACTOR - _POLL_INTERVAL, 0.0))
    return status
