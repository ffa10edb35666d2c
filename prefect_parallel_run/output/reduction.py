"""The final reduction: judges the limits on what is final, publishes the committed rows as one file, and writes the receipt."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_parallel_run.background import Background
from prefect_parallel_run.child.row_groups import GROUPS
from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.errors import LimitExceededError, NothingSucceededError, OutputError
from prefect_parallel_run.failures import FailedMiniBatch, failed_mini_batches, first_failure
from prefect_parallel_run.identity import listing_sha256
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.output.append_row import Published, publish
from prefect_parallel_run.output.parts import PartRange
from prefect_parallel_run.plan import Plan
from prefect_parallel_run.policy.limits import FailureLimits
from prefect_parallel_run.records import Tally
from prefect_parallel_run.run_directory import RunDirectory, write_json
from prefect_parallel_run.stores.objects import facts, upload

_HEARTBEAT_EVERY = 256  #: mini-batches put together between two heartbeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What a reduction needs to know."""

    directory: RunDirectory
    limits: FailureLimits
    target: Path | None  #: the file in which the result is put together; None for summary_only
    result: str | None  #: the result file: the same, or the URL of an object to which it is then copied
    row_format: str
    identity: dict[str, Any]
    output: str | None  #: folder or URL; None for a summary_only step without one
    heartbeat: Callable[[], None]  #: called now and then; raises to stop


def reduce(task: Reduction) -> dict[str, Any]:
    """Publish the result of a run whose mini-batches are all decided, and return its receipt.

    Raises:
        LimitExceededError: More failed than is forgiven; nothing is published.
        NothingSucceededError: There are no rows to publish although there were items.
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
            published = publish(
                _watched(part_ranges(directory, ledger), task.heartbeat), task.target, task.row_format, directory.run_id
            )
            if published.rows != tally.rows:
                raise OutputError(str(task.target), f"{published.rows} rows were put together, {tally.rows} committed")
        receipt = {
            **make_receipt(tally, directory.run_id, task.identity, task.result, published),
            "format": task.row_format if task.target is not None else None,
            "finished": time.time(),
        }
        if task.target is not None and task.result is not None and is_remote(task.result):
            target, result = task.target, task.result
            Background("upload", lambda beat: upload(target, result, beat)).wait(task.heartbeat)
            receipt["version"] = facts(result)[1]
            target.unlink()
        if task.target is None and task.output is not None:
            receipt["output_listing"] = listing_sha256(task.output)
        write_json(directory.receipt, receipt)
    return receipt


def make_receipt(
    tally: Tally, run_id: str, identity: Mapping[str, Any] | None, result: str | None, published: Published | None
) -> dict[str, Any]:
    """Return the receipt: every item and every mini-batch is in exactly one of succeeded, failed, not reached."""
    return {
        "run_id": run_id,
        "items": {
            "total": tally.items,
            "succeeded": tally.succeeded_items,
            "failed": tally.failed_items,
            "not_reached": tally.items - tally.succeeded_items - tally.failed_items,
        },
        "mini_batches": {
            "total": tally.planned,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "not_reached": tally.planned - tally.finished,
        },
        "rows": tally.rows,
        "output_file": result,
        "bytes": published.bytes if published is not None else None,
        "sha256": published.sha256 if published is not None else None,
        **{key: identity[key] for key in ("config_sha256", "script_sha256", "plan_sha256") if identity is not None},
    }


def _watched(ranges: Iterator[PartRange], heartbeat: Callable[[], None]) -> Iterator[PartRange]:
    for number, found in enumerate(ranges):
        if number % _HEARTBEAT_EVERY == 0:
            heartbeat()
        yield found


def write_failed_items(directory: RunDirectory, ledger: Ledger) -> None:
    """Write failed_items.jsonl: a line per failed file, or per range of failed rows, with its mini-batch, tries and cause."""
    beside = directory.failed_items.with_name(f".{directory.failed_items.name}.tmp")
    plan: Plan | None = None
    try:
        with beside.open("w", encoding="utf-8", errors="surrogateescape") as file:
            for failed in failed_mini_batches(ledger):
                plan = plan or Plan.open(directory.plan)  # what a long one takes in memory is rarely needed
                for line in _failed_lines(failed, plan):
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(directory.failed_items)
    except OSError as error:
        raise OutputError(str(directory.failed_items), f"cannot be written: {error.strerror}") from error


def _failed_lines(failed: FailedMiniBatch, plan: Plan) -> Iterator[dict[str, Any]]:
    work = json.loads(plan.works(failed.mini_batch, failed.mini_batch + 1)[0])
    about = {
        "mini_batch": failed.mini_batch,
        "input": work["input"],
        **{key: work[key] for key in ("partition_key_value",) if key in work},
        "tries": failed.attempts,
        "outcome": failed.outcome,
        "error_type": failed.error_type,
        "error": failed.error,
    }
    if failed.piece is not None:
        work = _only(work, *failed.piece)
    if failed.state == "succeeded":  # run() returned fewer rows than items; which are missing, only the script knows
        words = f"run() returned {failed.items - failed.failed} rows for {failed.items} items"
        about |= {"outcome": "too_few_rows", "error_type": "TooFewRows", "error": words, "failed": failed.failed}
        yield {**about, **_source(work)}
    elif work["kind"] == "files":
        for name in work["names"]:
            yield {"path": work["root"] + name, **about}
    else:
        yield {**_source(work), **about}


def _only(work: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return *work* with some of its items only; what is left of a table's is named by its place in the mini-batch."""
    if work["kind"] == "files":
        return {**work, "names": work["names"][start:stop]}
    only = {**work, "rows": stop - start, "items": [start, stop]}
    if "first" in work:
        only["first"] = work["first"] + start
    if work["kind"] in GROUPS:
        only |= {"start": work["start"] + start, "stop": work["start"] + stop}
    return only


def _source(work: dict[str, Any]) -> dict[str, Any]:
    """Return where the items of a mini-batch are."""
    if work["kind"] == "files":
        return {"paths": [work["root"] + name for name in work["names"]]}
    if work["kind"] == "tables":
        found = {"paths": sorted({table["path"] for table in work["tables"]}), "rows": work["rows"]}
        return {**found, **{key: work[key] for key in ("items",) if key in work}}
    places = ("path", "rows", "first", "row_groups", "batches", "stripes", "start", "stop", "items")
    found = {key: work[key] for key in places if key in work}
    if "first" in found:
        found["first_record"] = found.pop("first")
    return found


def part_ranges(directory: RunDirectory, ledger: Ledger) -> Iterator[PartRange]:
    """Yield where the committed rows lie, in mini-batch order."""
    paths: dict[str, Path] = {}  # one object per part: millions of ranges lie in few
    for mini_batch, part, *place in ledger.places():
        path = paths.get(part) or paths.setdefault(part, directory.parts / part)
        yield PartRange(mini_batch, path, *place)
