"""``show``: how far a run is; redrawn while it runs."""

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

_AT_LEAST = 1.0  #: s between two looks
_FETCHED_EVERY = 15.0  #: s between two times that a run in a store is fetched
_SHARE = 5  #: a look takes that fraction of the time at most: a ledger of millions is not read all the time


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Print how far a run is; at a terminal, follow it while it is driven."
    command = add_run_command(commands, "show", _show, words)
    words = "go on until the run ends (default: at a terminal); with --json a line of JSON each time"
    command.add_argument("-f", "--follow", action=argparse.BooleanOptionalAction, help=words)


def _show(given: argparse.Namespace) -> int:
    look = looker(given.run_directory)
    standing = look()
    can_redraw = sys.stdout.isatty() and not given.json
    if standing.driver is None or not (can_redraw if given.follow is None else given.follow):
        _print(standing, given)
        return Exit.WELL
    try:
        (_redraw if can_redraw else _tell_now_and_then)(standing, look, given)
    except KeyboardInterrupt:  # the way to leave; the run goes on
        return Exit.CANCELLED
    return Exit.WELL


def looker(place: str) -> Callable[[], RunStatus]:
    """Return what looks at the run that *place* means; at one in a store now and then at what is new of its copy."""
    from prefect_parallel_run.child.storage import is_remote  # noqa: PLC0415  pandas and Arrow, which --help does not need
    from prefect_parallel_run.monitoring.status import look  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.run_directory import FOLDER  # noqa: PLC0415  the same

    directory = open_run(place, to_look_at=True)
    if not is_remote(place):
        return lambda: look(directory, time.time())
    from prefect_parallel_run.execution.resume import open_run_directory  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.copies import driver_of  # noqa: PLC0415  the same

    url = f"{place.rstrip('/').partition(f'/{FOLDER}')[0]}/{FOLDER}/{directory.run_id}"
    fetched = time.monotonic()

    def look_there() -> RunStatus:
        nonlocal fetched
        if time.monotonic() - fetched >= _FETCHED_EVERY:
            open_run_directory(url, parts=False)
            fetched = time.monotonic()
        return look(directory, time.time(), driver_of(url))

    return look_there


def _print(standing: RunStatus, given: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.status import as_plain  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.status_text import standing_lines  # noqa: PLC0415  the same

    if given.json:
        emit_json(as_plain(standing))
    else:
        emit("\n".join(standing_lines(standing, time.time())))


def _redraw(standing: RunStatus, look: Callable[[], RunStatus], given: argparse.Namespace) -> None:
    """Draw the same lines anew until the run is not driven any more; at last in full."""
    from prefect_parallel_run.monitoring.status_line import columns_of, style_of  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.status_text import standing_lines  # noqa: PLC0415  the same

    drawn = 0
    while standing.driver is not None:
        lines = standing_lines(standing, time.time(), columns_of(sys.stdout) - 1, style_of(sys.stdout))
        emit_raw(_back(drawn) + "\n".join(lines) + "\n")
        drawn = len(lines)
        standing = _next(look)
    emit_raw(_back(drawn))
    _print(standing, given)


def _back(lines: int) -> str:
    """Return what moves the cursor up and erases all below."""
    return f"\x1b[{lines}F\x1b[J" if lines else ""


def _tell_now_and_then(standing: RunStatus, look: Callable[[], RunStatus], given: argparse.Namespace) -> None:
    """Print a line every 30 s, or 5 %, until the run is not driven any more."""
    from prefect_parallel_run.monitoring.progress import LogThrottle  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.status import as_plain  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.status_text import standing_line  # noqa: PLC0415  the same

    def tell() -> None:
        emit(json.dumps(as_plain(standing)) if given.json else standing_line(standing))

    tell()
    pace = LogThrottle(time.monotonic())
    while standing.driver is not None:
        standing = _next(look)
        if standing.driver is not None and pace.is_due(standing.tally, time.monotonic()):
            tell()
    tell()


def _next(look: Callable[[], RunStatus]) -> RunStatus:
    began = time.monotonic()
    time.sleep(_AT_LEAST)
    standing = look()
    took = time.monotonic() - began - _AT_LEAST
    time.sleep(max(took * _SHARE - _AT_LEAST, 0.0))
    return standing
