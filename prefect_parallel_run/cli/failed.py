"""``failed``: failures of a run by cause; or its failed items, to feed into a new run; or its failed mini-batches."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prefect_parallel_run._units import FAILED_ATTEMPTS, MINI_BATCHES, count
from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_all, emit_array, emit_json, notify
from prefect_parallel_run.cli._run_argument import add_run_command, open_run

if TYPE_CHECKING:
    from prefect_parallel_run.runs.ledger import Ledger
    from prefect_parallel_run.runs.run_directory import RunDirectory

_EPILOG = """\
Feed the failed files into a new run:

  prefect-parallel-run failed RUN_DIR --items | prefect-parallel-run run CONFIG --input-list - --output PATH
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Print failures by cause, the most frequent first; or the failed items. Works during the run, too."
    command = add_run_command(
        commands, "failed", _failed, help_text, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    selection = command.add_mutually_exclusive_group()
    items = "print failed files, one path per line; for tables, one JSON object per range of rows"
    selection.add_argument("--items", action="store_true", help=items)
    selection.add_argument("--mini-batches", action="store_true", help="print mini-batches with failed items, by number")
    command.add_argument("-0", "--null", action="store_true", help="end every path with NUL, for names that contain newlines")


def _failed(args: argparse.Namespace) -> int:
    from prefect_parallel_run.runs.ledger import Ledger

    if args.null and (not args.items or args.json):
        raise ValueError("--null works only with --items and without --json")
    directory = open_run(args.run_directory, metadata_only=True, verify_plan=not args.mini_batches)
    with Ledger(directory.ledger) as ledger:
        if args.items:
            _items(directory, ledger, args)
        elif args.mini_batches:
            _mini_batches(ledger, args)
        else:
            _causes(directory, ledger, args)
    return Exit.SUCCESS


def _causes(directory: RunDirectory, ledger: Ledger, args: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.failure_table import FailureTable
    from prefect_parallel_run.monitoring.logs import escape_control_chars
    from prefect_parallel_run.runs.failures import causes

    failures = causes(ledger)
    if args.json:
        emit_json([cause._asdict() for cause in failures])
        return
    for cause, location in zip(failures, FailureTable(directory).places(failures), strict=True):
        attempts = f"{count(cause.tries, *FAILED_ATTEMPTS)} of {count(cause.mini_batches, *MINI_BATCHES)}"
        details = f"{attempts}, first {cause.first_mini_batch}"
        emit(
            f"{escape_control_chars(cause.error_type)}: {escape_control_chars(cause.error)}"
            f" ({cause.outcome}; {details}; on {cause.nodes})"
        )
        if cause.failed_items:
            emit(f"  failed permanently: {count(cause.failed_items, 'item')}")
        if location:
            emit(f"  {'first failing item' if cause.guilty else 'in that mini-batch'}: {location}")
        if cause.traceback:
            emit("  " + escape_control_chars(cause.traceback).rstrip().replace("\n", "\n  "))
    if not failures:
        metadata = ledger.facts()
        reason = metadata.get("status") == "failed" and metadata.get("reason")
        emit(f"no attempt failed, but the run did: {escape_control_chars(reason)}" if reason else "nothing failed")


def _items(directory: RunDirectory, ledger: Ledger, args: argparse.Namespace) -> None:
    from prefect_parallel_run.output.failed_items import failed_items

    items = failed_items(directory, ledger)
    if args.json:
        emit_array(items)
        return
    unknown = 0

    def lines() -> Iterator[str]:
        nonlocal unknown
        for item in items:
            if item["outcome"] == "too_few_rows":
                unknown += item["failed"]
            elif item.get("paths") is None and "rows" not in item and "items" not in item:
                yield _printable(item["path"], null_terminated=args.null)
            else:
                yield json.dumps(item)

    emit_all(lines(), "\0" if args.null else "\n")
    if unknown:
        reason = "in mini-batches whose run() returned fewer rows than items; only the script knows which items"
        notify(f"{unknown} more items failed {reason}: see --mini-batches or --json")


def _printable(path: str, *, null_terminated: bool) -> str:
    """Return a printable path: unchanged for a pipe or file, with control characters escaped on a terminal."""
    from prefect_parallel_run.monitoring.logs import escape_control_chars

    if "\n" in path and not null_terminated:
        raise ValueError(f"{path!r} contains a newline; use --null")
    return escape_control_chars(path) if sys.stdout.isatty() else path


def _mini_batches(ledger: Ledger, args: argparse.Namespace) -> None:
    from prefect_parallel_run.monitoring.logs import escape_control_chars
    from prefect_parallel_run.runs.failures import failed_mini_batches

    failures = failed_mini_batches(ledger)
    if args.json:
        emit_array(failed._asdict() for failed in failures)
        return

    def lines() -> Iterator[str]:
        for failed in failures:
            items = f"{failed.failed:,} of {count(failed.items, 'item')}"
            if failed.piece is not None:
                first, last = failed.piece[0], failed.piece[1] - 1
                items += f" (item {first})" if first == last else f" (items {first} to {last})"
            error = escape_control_chars(f"{failed.error_type}: {failed.error}").strip().partition("\n")[0]
            reason = error if failed.state == "failed" else "fewer rows than items"
            yield f"{failed.mini_batch}\t{count(failed.attempts, 'attempt')}\t{items}\t{reason}"

    emit_all(lines())
