"""The final reduction: judges the limits on what is final, publishes the committed rows as one file, and writes the receipt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import LimitExceededError, NothingSucceededError, OutputError, RowsDifferError
from prefect_parallel_run.models import Tally
from prefect_parallel_run.output.append_row import Published, publish
from prefect_parallel_run.output.failed_items import source, write_failed_items
from prefect_parallel_run.output.parts import PartRange
from prefect_parallel_run.planning.plan import Plan, PlanReader
from prefect_parallel_run.runs.failures import first_failure
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage.objects import facts, upload

_HEARTBEAT_EVERY = 256  #: mini-batches put together between two heartbeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What a reduction needs to know."""

    directory: RunDirectory
    limits: FailureLimits
    target: Path | None  #: the file in which the result is put together; None for summary_only
    result: str | None  #: the result file: the same, or the URL of an object to which it is then copied
    row_format: str
    row_options: Mapping[str, Any] = field(default_factory=dict)  #: keywords of to_csv with which rows were written
    identity: dict[str, Any]
    output: str | None  #: folder or URL in which the script writes files of its own; None: it does not
    check_cancelled: Callable[[], None]  #: called now and then; raises to stop
    notes: Mapping[str, Any] = field(default_factory=dict)  #: further entries of the receipt


def reduce(task: Reduction) -> dict[str, Any]:
    """Publish the result of a run whose mini-batches are all decided, and return its receipt.

    Raises:
        LimitExceededError: More failed than is forgiven; nothing is published.
        NothingSucceededError: There are no rows to publish although there were items.
        RowsDifferError: The rows of two mini-batches have other columns; names their files.
        OutputError: The result could not be written; what was there before is unchanged.
    """
    directory = task.directory
    with Ledger(directory.ledger) as ledger:
        tally = ledger.tally()
        write_failed_items(directory, ledger)
        breach = task.limits.first_breach(tally)
        if breach is not None:
            raise LimitExceededError(*breach, str(directory.path), first_failure(ledger))
        published: Published | None = None
        if task.target is not None:
            if tally.items and not tally.succeeded_items and not tally.rows:
                raise NothingSucceededError(tally.items, str(directory.path), first_failure(ledger))
            published = _publish(task, task.target, ledger)
            if published.rows != tally.rows:
                raise OutputError(str(task.target), f"{published.rows} rows were put together, {tally.rows} committed")
        receipt = {
            **make_receipt(tally, directory.run_id, task.identity, task.result, published),
            "format": task.row_format if task.target is not None else None,
            "limits": asdict(task.limits),
            "finished": time.time(),
            **task.notes,
        }
        if task.target is not None and task.result is not None and is_remote(task.result):
            target, result = task.target, task.result
            Background("upload", lambda check_cancelled: upload(target, result, check_cancelled)).wait(task.check_cancelled)
            receipt["version"] = facts(result)[1]
            target.unlink()
        if task.output is not None:
            receipt["output_listing"] = listing_sha256(task.output)
        write_json(directory.receipt, receipt)
    return receipt


def _publish(task: Reduction, target: Path, ledger: Ledger) -> Published:
    ranges = _watched(part_ranges(task.directory, ledger), task.check_cancelled)
    try:
        return publish(ranges, target, task.row_format, task.directory.run_id, task.row_options)
    except RowsDifferError as error:
        raise with_files(error, Plan.open(task.directory.plan), error.path or str(task.result)) from None


def with_files(error: RowsDifferError, plan: PlanReader, result: str) -> RowsDifferError:
    """Return the error with the result file, and with the files that both mini-batches were made from."""
    files, others = (_files(plan, number) for number in (error.mini_batch, error.other))
    return RowsDifferError(result, error.reason, error.mini_batch, files, error.other, others)


def _files(plan: PlanReader, mini_batch: int | None) -> tuple[str, ...]:
    """Return the files that the items of a mini-batch are, or are in."""
    if mini_batch is None:
        return ()
    found = source(json.loads(plan.works(mini_batch, mini_batch + 1)[0]))
    return tuple(found["paths"] if "paths" in found else [found["path"]])


def make_receipt(
    tally: Tally, run_id: str, identity: Mapping[str, Any] | None, result: str | None, published: Published | None
) -> dict[str, Any]:
    """Return the receipt: every item and every mini-batch is in exactly one of succeeded, failed, not reached."""
    return {
        "run_id": run_id,
        **tally.by_outcome(),
        "output_file": result,
        "bytes": published.bytes if published is not None else None,
        "sha256": published.sha256 if published is not None else None,
        **{key: identity[key] for key in ("config_sha256", "script_sha256", "plan_sha256") if identity is not None},
    }


def _watched(ranges: Iterator[PartRange], check_cancelled: Callable[[], None]) -> Iterator[PartRange]:
    for number, found in enumerate(ranges):
        if number % _HEARTBEAT_EVERY == 0:
            check_cancelled()
        yield found


def part_ranges(directory: RunDirectory, ledger: Ledger) -> Iterator[PartRange]:
    """Yield where the committed rows lie, in mini-batch order."""
    paths: dict[str, Path] = {}  # one object per part: millions of ranges lie in few
    for mini_batch, part, *place in ledger.places():
        path = paths.get(part) or paths.setdefault(part, directory.parts / part)
        yield PartRange(mini_batch, path, *place)
