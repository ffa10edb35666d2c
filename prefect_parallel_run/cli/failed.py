"""``failed``: what failed in a run, by cause; or its items, to feed into a new run; or its mini-batches."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_all, emit_array, emit_json, say
from prefect_parallel_run.cli._run_argument import add_run_command, open_run
from prefect_parallel_run.units import MINI_BATCHES, TRIES, count

if TYPE_CHECKING:
    from prefect_parallel_run.runs.ledger import Ledger
    from prefect_parallel_run.runs.run_directory import RunDirectory

_AFTER = """\
Feed the failed files into a new run:

  prefect-parallel-run failed RUN_DIR --items | prefect-parallel-run run CONFIG --input-list - --output PATH
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Print failures by cause, the most frequent first; or what failed, item by item. Works while the run goes on, too."
    command = add_run_command(
        commands, "failed", _failed, words, epilog=_AFTER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = command.add_mutually_exclusive_group()
    words = "the failed files, one path a line; of tables a JSON object per range of rows"
    what.add_argument("--items", action="store_true", help=words)
    what.add_argument("--mini-batches", action="store_true", help="the mini-batches with failed items, by number")
    command.add_argument("-0", "--null", action="store_true", help="end every path with NUL, for names with line ends in them")


def _failed(given: argparse.Namespace) -> int:
    from prefect_parallel_run.runs.ledger import Ledger  # noqa: PLC0415  Arrow, which --help does not need

    if given.null and (not given.items or given.json):
        raise ValueError("--null is for --items, without --json")
    directory = open_run(given.run_directory, to_look_at=True, reads_plan=not given.mini_batches)
    with Ledger(directory.ledger) as ledger:
        if given.items:
            _items(directory, ledger, given)
        elif given.mini_batches:
            _mini_batches(ledger, given)
        else:
            _causes(directory, ledger, given)
    return Exit.WELL


def _causes(directory: RunDirectory, ledger: Ledger, given: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.failure_table import FailureTable  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.logs import escape_control_chars  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.failures import causes  # noqa: PLC0415  the same

    found = causes(ledger)
    if given.json:
        emit_json([cause._asdict() for cause in found])
        return
    for cause, place in zip(found, FailureTable(directory).places(found), strict=True):
        tries = f"{count(cause.tries, *TRIES)} of {count(cause.mini_batches, *MINI_BATCHES)}"
        words = f"{tries}, the first is {cause.first_mini_batch}"
        emit(
            f"{escape_control_chars(cause.error_type)}: {escape_control_chars(cause.error)}"
            f" ({cause.outcome}; {words}; on {cause.nodes})"
        )
        if cause.failed_items:
            emit(f"  failed for good: {count(cause.failed_items, 'item')}")
        if place:
            emit(f"  {'the first that was found guilty' if cause.guilty else 'in that mini-batch'}: {place}")
        if cause.traceback:
            emit("  " + escape_control_chars(cause.traceback).rstrip().replace("\n", "\n  "))
    if not found:
        facts = ledger.facts()
        ended = facts.get("status") == "failed" and facts.get("reason")
        emit(f"no try failed; the run did, by: {escape_control_chars(ended)}" if ended else "nothing failed")


def _items(directory: RunDirectory, ledger: Ledger, given: argparse.Namespace) -> None:
    from prefect_parallel_run.output.failed_items import failed_items  # noqa: PLC0415  the same

    found = failed_items(directory, ledger)
    if given.json:
        emit_array(found)
        return
    unknown = 0

    def lines() -> Iterator[str]:
        nonlocal unknown
        for item in found:
            if item["outcome"] == "too_few_rows":
                unknown += item["failed"]
            elif item.get("paths") is None and "rows" not in item and "items" not in item:
                yield _path(item["path"], is_ended_by_null=given.null)
            else:
                yield json.dumps(item)

    emit_all(lines(), "\0" if given.null else "\n")
    if unknown:
        words = "failed in mini-batches whose run() returned fewer rows than items; which, only the script knows"
        say(f"{unknown} more items {words}: see --mini-batches, or --json")


def _path(path: str, *, is_ended_by_null: bool) -> str:
    """Return a path as it can be printed: whole where something else reads it, harmless on a terminal."""
    from prefect_parallel_run.monitoring.logs import escape_control_chars  # noqa: PLC0415  the same

    if "\n" in path and not is_ended_by_null:
        raise ValueError(f"{path!r} has a line end in its name; use --null")
    return escape_control_chars(path) if sys.stdout.isatty() else path


def _mini_batches(ledger: Ledger, given: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.logs import escape_control_chars  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.failures import failed_mini_batches  # noqa: PLC0415  the same

    found = failed_mini_batches(ledger)
    if given.json:
        emit_array(failed._asdict() for failed in found)
        return

    def lines() -> Iterator[str]:
        for failed in found:
            items = f"{failed.failed:,} of {count(failed.items, 'item')}"
            if failed.piece is not None:
                first, last = failed.piece[0], failed.piece[1] - 1
                items += f" (item {first} of it)" if first == last else f" (items {first} to {last} of it)"
            error = escape_control_chars(f"{failed.error_type}: {failed.error}").strip().partition("\n")[0]
            why = error if failed.state == "failed" else "fewer rows than items"
            yield f"{failed.mini_batch}\t{count(failed.attempts, 'try', 'tries')}\t{items}\t{why}"

    emit_all(lines())
