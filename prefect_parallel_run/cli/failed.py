"""``failed``: prints failures of a run by cause, or its failed items as input for a new run, or its failed mini-batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click
from rich.text import Text

from prefect_parallel_run._units import FAILED_ATTEMPTS, MINI_BATCHES, count
from prefect_parallel_run.cli._command import emit, emit_all, emit_array, emit_json, notify
from prefect_parallel_run.cli._run_command import RunCommand, emit_styled, open_run
from prefect_parallel_run.monitoring.failure_table import FailureTable
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.output.failed_items import failed_items
from prefect_parallel_run.runs.failures import causes, failed_mini_batches
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_EPILOG = """\
Run the failed files again, in a new run:

\b
prefect-parallel-run failed RUN_DIR --items |
  prefect-parallel-run run CONFIG --input-list - --output PATH
"""


@click.command(cls=RunCommand, epilog=_EPILOG)
@click.option("--items", is_flag=True, help="Print failed files, one per line; for tables, a JSON object per range of rows.")
@click.option("--mini-batches", is_flag=True, help="Print mini-batches with failed items, by number.")
@click.option("-0", "--null", is_flag=True, help="End every path with NUL, for names that contain newlines.")
def failed(run_directory: str, items: bool, mini_batches: bool, null: bool, as_json: bool) -> None:
    """Print failures by cause, the most frequent first; or the failed items. Also works while the run executes."""
    if items and mini_batches:
        raise click.UsageError("--items and --mini-batches exclude each other; pass one of them")
    if null and (not items or as_json):
        raise ValueError("--null works only with --items and without --json")
    directory = open_run(run_directory, metadata_only=True, verify_plan=not mini_batches)
    with Ledger(directory.ledger) as ledger:
        if items:
            _items(directory, ledger, as_json=as_json, null=null)
        elif mini_batches:
            _mini_batches(ledger, as_json=as_json)
        else:
            _causes(directory, ledger, as_json=as_json)


def _causes(directory: RunDirectory, ledger: Ledger, *, as_json: bool) -> None:
    failures = causes(ledger)
    if as_json:
        emit_json([cause._asdict() for cause in failures])
        return
    for cause, location in zip(failures, FailureTable(directory).places(failures), strict=True):
        attempts = f"{count(cause.tries, *FAILED_ATTEMPTS)} of {count(cause.mini_batches, *MINI_BATCHES)}"
        details = f"{attempts}, first {cause.first_mini_batch}"
        error = escape_control_chars(f"{cause.error_type}: {cause.error}")
        emit_styled(Text.assemble((error, "bold red"), f" ({cause.outcome}; {details}; on {cause.nodes})"))
        if cause.failed_items:
            emit(f"  failed permanently: {count(cause.failed_items, 'item')}")
        if location:
            emit(f"  {'first failing item' if cause.guilty else 'in that mini-batch'}: {location}")
        if cause.traceback:
            emit("  " + escape_control_chars(cause.traceback).rstrip().replace("\n", "\n  "))
    if not failures:
        metadata = ledger.metadata()
        reason = metadata.get("status") == "failed" and metadata.get("reason")
        emit(f"no attempt failed, but the run did: {escape_control_chars(reason)}" if reason else "nothing failed")


def _items(directory: RunDirectory, ledger: Ledger, *, as_json: bool, null: bool) -> None:
    items = failed_items(directory, ledger)
    if as_json:
        emit_array(items)
        return
    unknown = 0

    def lines() -> Iterator[str]:
        nonlocal unknown
        for item in items:
            if item["outcome"] == "too_few_rows":
                unknown += item["failed"]
            elif item.get("paths") is None and "rows" not in item and "items" not in item:
                yield _printable(item["path"], null_terminated=null)
            else:
                yield json.dumps(item)

    emit_all(lines(), "\0" if null else "\n")
    if unknown:
        reason = "in mini-batches whose run() returned fewer rows than items; only the script knows which items"
        notify(f"{unknown} more items failed {reason}: see --mini-batches or --json")


def _printable(path: str, *, null_terminated: bool) -> str:
    """Return a printable path: unchanged for a pipe or file, with control characters escaped on a terminal."""
    if "\n" in path and not null_terminated:
        raise ValueError(f"{path!r} contains a newline; use --null")
    return escape_control_chars(path) if sys.stdout.isatty() else path


def _mini_batches(ledger: Ledger, *, as_json: bool) -> None:
    failures = failed_mini_batches(ledger)
    if as_json:
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
