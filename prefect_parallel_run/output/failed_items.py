"""Which items failed, each with its mini-batch, tries and cause; as failed_items.jsonl, and of a run that is not finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from prefect_parallel_run.child.row_groups import GROUPS
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.spool import spooled
from prefect_parallel_run.runs.failures import FailedMiniBatch, failed_mini_batches, shortfall
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def write_failed_items(directory: RunDirectory, ledger: Ledger) -> None:
    """Write failed_items.jsonl: a line per failed file, or per range of failed rows, with its mini-batch, tries and cause."""
    beside = directory.failed_items.with_name(f".{directory.failed_items.name}.tmp")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogateescape") as file:
            for line in failed_items(directory, ledger):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(directory.failed_items)
    except OSError as error:
        raise OutputError(str(directory.failed_items), f"cannot be written: {error.strerror}") from error


def failed_items(directory: RunDirectory, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the failed items of a run as its ledger has them now: a file, or a range of rows, with mini-batch, tries and cause.

    Of mini-batches that returned fewer rows than items, ``failed`` says how many of their items; which, only the script knows.
    """
    work_of: Callable[[int], str] | None = None
    for failed in failed_mini_batches(ledger):
        work_of = work_of or _works(directory)  # what a long plan takes in memory is rarely needed
        yield from _lines(failed, json.loads(work_of(failed.mini_batch)))


def _works(directory: RunDirectory) -> Callable[[int], str]:
    """Return what finds the work text of a mini-batch; asked for in the order of their numbers, one maybe several times."""
    if directory.plan.exists():
        plan = Plan.open(directory.plan)
        return lambda number: plan.works(number, number + 1)[0]
    planned = spooled(directory.spool)

    @lru_cache(maxsize=1)  # the pieces of one mini-batch come after each other
    def work_of(number: int) -> str:
        for mini_batch in planned:
            if mini_batch.number == number:
                return mini_batch.work
        raise OutputError(str(directory.spool), f"has no mini-batch {number}, which the ledger has")

    return work_of


def _lines(failed: FailedMiniBatch, work: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
        work = only(work, *failed.piece)
    if failed.state == "succeeded":  # run() returned fewer rows than items; which are missing, only the script knows
        words = shortfall(failed.items - failed.failed, failed.items)
        about |= {"outcome": "too_few_rows", "error_type": "TooFewRows", "error": words, "failed": failed.failed}
        yield {**about, **source(work)}
    elif work["kind"] == "files":
        for name in work["names"]:
            yield {"path": work["root"] + name, **about}
    else:
        yield {**source(work), **about}


def only(work: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Return *work* with some of its items only; what is left of a table's is named by its place in the mini-batch."""
    if work["kind"] == "files":
        return {**work, "names": work["names"][start:stop]}
    only = {**work, "rows": stop - start, "items": [start, stop]}
    if "first" in work:
        only["first"] = work["first"] + start
    if work["kind"] in GROUPS:
        only |= {"start": work["start"] + start, "stop": work["start"] + stop}
    return only


def source(work: dict[str, Any]) -> dict[str, Any]:
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
