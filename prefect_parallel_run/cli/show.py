"""``show``: prints the progress of a run, and follows it while it executes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json, emit_raw
from prefect_parallel_run.cli._run_argument import add_run_command, open_run

if TYPE_CHECKING:
    from prefect_parallel_run.monitoring.status import RunStatus

_POLL_INTERVAL = 1.0  #: s between two reads, at least
_FETCH_INTERVAL = 15.0  #: s between two fetches of a run in a store
_IDLE_FACTOR = 5  #: pause that many times as long as a read takes: a ledger of millions is not read all the time


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Print the progress of a run; at a terminal, follow it while it executes."
    command = add_run_command(commands, "show", _show, help_text)
    follow = "keep printing until the run ends (default: at a terminal); with --json, one line of JSON each time"
    command.add_argument("-f", "--follow", action=argparse.BooleanOptionalAction, help=follow)


def _show(args: argparse.Namespace) -> int:
    read_status = status_reader(args.run_directory)
    status = read_status()
    can_redraw = sys.stdout.isatty() and not args.json
    if status.driver is None or not (can_redraw if args.follow is None else args.follow):
        _print(status, args)
        return Exit.SUCCESS
    try:
        (_redraw if can_redraw else _print_periodically)(status, read_status, args)
    except KeyboardInterrupt:  # Ctrl-C stops only this command
        return Exit.CANCELLED
    return Exit.SUCCESS


def status_reader(path: str) -> Callable[[], RunStatus]:
    """Return a function that reads the run's current status; for a run in a store, it refreshes the local copy regularly."""
    from prefect_parallel_run.child.storage import is_remote
    from prefect_parallel_run.monitoring.status import look
    from prefect_parallel_run.storage.paths import RUNS_FOLDER

    directory = open_run(path, metadata_only=True)
    if not is_remote(path):
        return lambda: look(directory, time.time())
    from prefect_parallel_run.execution.resume import open_run_directory
    from prefect_parallel_run.runs.copies import active_owner

    url = f"{path.rstrip('/').partition(f'/{RUNS_FOLDER}')[0]}/{RUNS_FOLDER}/{directory.run_id}"
    fetched = time.monotonic()

    def read_remote() -> RunStatus:
        nonlocal fetched
        if time.monotonic() - fetched >= _FETCH_INTERVAL:
            open_run_directory(url, parts=False)
            fetched = time.monotonic()
        return look(directory, time.time(), active_owner(url))

    return read_remote


def _print(status: RunStatus, args: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.status import as_plain
    from prefect_parallel_run.monitoring.status_text import status_lines

    if args.json:
        emit_json(as_plain(status))
    else:
        emit("\n".join(status_lines(status, time.time())))


def _redraw(status: RunStatus, read_status: Callable[[], RunStatus], args: argparse.Namespace) -> None:
    """Redraw the status in place while the run executes, then print it in full."""
    from prefect_parallel_run.monitoring.status_line import columns_of, style_of
    from prefect_parallel_run.monitoring.status_text import status_lines

    drawn = 0
    while status.driver is not None:
        lines = status_lines(status, time.time(), columns_of(sys.stdout) - 1, style_of(sys.stdout))
        emit_raw(_cursor_up(drawn) + "\n".join(lines) + "\n")
        drawn = len(lines)
        status = _poll(read_status)
    emit_raw(_cursor_up(drawn))
    _print(status, args)


def _cursor_up(lines: int) -> str:
    """Return the escape codes that move the cursor up and erase everything below."""
    return f"\x1b[{lines}F\x1b[J" if lines else ""


def _print_periodically(status: RunStatus, read_status: Callable[[], RunStatus], args: argparse.Namespace) -> None:
    """Print a line every 30 s or 5 % while the run executes."""
    from prefect_parallel_run.monitoring.progress import LogThrottle
    from prefect_parallel_run.monitoring.status import as_plain
    from prefect_parallel_run.monitoring.status_text import status_summary

    def print_line() -> None:
        emit(json.dumps(as_plain(status)) if args.json else status_summary(status))

    print_line()
    throttle = LogThrottle(time.monotonic())
    while status.driver is not None:
        status = _poll(read_status)
        if status.driver is not None and throttle.is_due(status.tally, time.monotonic()):
            print_line()
    print_line()


def _poll(read_status: Callable[[], RunStatus]) -> RunStatus:
    began = time.monotonic()
    time.sleep(_POLL_INTERVAL)
    status = read_status()
    took = time.monotonic() - began - _POLL_INTERVAL
    time.sleep(max(took * _IDLE_FACTOR - _POLL_INTERVAL, 0.0))
    return status
