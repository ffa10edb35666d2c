"""Lists the failed items with mini-batch, attempts and cause; writes failed_items.jsonl, and works during a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run.child.table_formats import groups_of
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.planning.plan import Plan, spooled
from prefect_parallel_run.runs.failures import FailedMiniBatch, failed_mini_batches, shortfall
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def write_failed_items(directory: RunDirectory, ledger: Ledger) -> None:
    """Write failed_items.jsonl: one line per failed file or range of failed rows, with mini-batch, attempts and cause."""
    path = directory.failed_items
    with wrap_disk_errors(path), AtomicFile(path, sync=True) as file:
        for line in failed_items(directory, ledger):
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def failed_items(directory: RunDirectory, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the failed items in the ledger: a file or a range of rows, with mini-batch, attempts and cause.

    For a mini-batch that returned fewer rows than items, ``failed`` is the number of missing rows; only the script knows which.
    """
    work_of: Callable[[int], str] | None = None
    for failed in failed_mini_batches(ledger):
        work_of = work_of or _work_reader(directory)  # loaded on demand: a long plan needs memory
        yield from _lines(failed, json.loads(work_of(failed.mini_batch)))


def _work_reader(directory: RunDirectory) -> Callable[[int], str]:
    """Return a function for the work of a mini-batch; numbers must not decrease between calls, but may repeat."""
    if directory.plan.exists():
        plan = Plan(directory.plan)
        return lambda number: plan.works(number, number + 1)[0]
    planned = spooled(directory.spool)

    @lru_cache(maxsize=1)  # pieces of one mini-batch are consecutive
    def work_of(number: int) -> str:
        for mini_batch in planned:
            if mini_batch.number == number:
                return mini_batch.work
        raise OutputError(str(directory.spool), f"lacks mini-batch {number} of the ledger")

    return work_of


def _lines(failed: FailedMiniBatch, work: dict[str, Any]) -> Iterator[dict[str, Any]]:
    entry = {
        "mini_batch": failed.mini_batch,
        "input": work["input"],
        **{key: work[key] for key in ("partition_key_value",) if key in work},
        "tries": failed.attempts,
        "outcome": failed.outcome,
        "error_type": failed.error_type,
        "error": failed.error,
    }
    if failed.piece is not None:
        work = select_items(work, *failed.piece)
    if failed.state == "succeeded":  # run() returned fewer rows than items; only the script knows which are missing
        message = shortfall(failed.items - failed.failed, failed.items)
        entry |= {"outcome": "too_few_rows", "error_type": "TooFewRows", "error": message, "failed": failed.failed}
        yield {**entry, **source_location(work)}
    elif work["kind"] == "files":
        for name in work["names"]:
            yield {"path": work["root"] + name, **entry}
    else:
        yield {**source_location(work), **entry}


def select_items(work: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return *work* with only some of its items; for a table, ``items`` is their range in the mini-batch."""
    if work["kind"] == "files":
        return {**work, "names": work["names"][start:stop]}
    selected = {**work, "rows": stop - start, "items": [start, stop]}
    if "first" in work:
        selected["first"] = work["first"] + start
    if groups_of(work)[0]:
        selected |= {"start": work["start"] + start, "stop": work["start"] + stop}
    return selected


def source_location(work: dict[str, Any]) -> dict[str, Any]:
    """Return the location of the items of a mini-batch."""
    if work["kind"] == "files":
        return {"paths": [work["root"] + name for name in work["names"]]}
    if work["kind"] == "tables":
        location = {"paths": sorted({table["path"] for table in work["tables"]}), "rows": work["rows"]}
        return {**location, **{key: work[key] for key in ("items",) if key in work}}
    keys = ("path", "rows", "first", groups_of(work)[0], "start", "stop", "items")
    location = {key: work[key] for key in keys if key in work}
    if "first" in location:
        location["first_record"] = location.pop("first")
    return location
