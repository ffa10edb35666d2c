"""Recomputes what a run claims, from its plan, ledger, parts and result. Changes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect_parallel_run.errors import OutputError, RunFileError
from prefect_parallel_run.monitoring.status import status_of
from prefect_parallel_run.output.column_order import Dialect
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.output.reduction import make_receipt, part_ranges
from prefect_parallel_run.output.text import write_text
from prefect_parallel_run.runs.integrity import check_plan, ledger_problems
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.storage.objects import file_sha256, size_of


def problems(directory: RunDirectory) -> Iterator[str]:
    """Yield one line for everything that is not as it should be; nothing when all is well."""
    yield from dict.fromkeys(_problems(directory))


def _problems(directory: RunDirectory) -> Iterator[str]:
    try:
        yield from _files(directory)
        with Ledger(directory.ledger) as ledger:
            damaged = list(_parts(directory, ledger))
            yield from damaged
            yield from _receipt(directory, ledger, parts_are_whole=not damaged)
    except RunFileError as error:
        yield f"{Path(error.path).name} {error.reason}"


def _files(directory: RunDirectory) -> Iterator[str]:
    """Yield problems of the plan and the ledger; raises RunFileError when the ledger cannot be read at all."""
    try:
        check_plan(directory)
    except RunFileError as error:
        yield f"{Path(error.path).name} {error.reason}"
    with Ledger(directory.ledger) as ledger:
        for reason in ledger_problems(directory, ledger, is_whole=True):
            yield f"ledger.sqlite: {reason}"
        tried_too_often = [str(number) for (number,) in ledger.rows(_TRIED_TOO_OFTEN)]
        if tried_too_often:
            yield f"ledger.sqlite: mini-batches {', '.join(tried_too_often)} were tried more often than run_max_try"


_TRIED_TOO_OFTEN = (
    "SELECT mini_batch FROM attempts JOIN mini_batches USING (mini_batch) GROUP BY mini_batch"
    " HAVING COUNT(*) > granted + (SELECT CAST(value AS INTEGER) FROM run WHERE key = 'run_max_try') LIMIT 5"
)


def _parts(directory: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Yield problems of the committed ranges: they are there, unaltered, and no two of them share a byte."""
    ranges = sorted(part_ranges(directory, ledger), key=lambda found: (found.part, found.offset))
    before: PartRange | None = None
    with Parts() as parts:
        for found in ranges:
            if before is not None and before.part == found.part and found.offset < before.offset + before.length:
                yield f"mini-batches {before.mini_batch} and {found.mini_batch} share bytes of {found.part.name}"
            before = found
            try:
                parts.copy([found], lambda _: None)
            except OutputError as error:
                yield error.reason


def _receipt(directory: RunDirectory, ledger: Ledger, *, parts_are_whole: bool) -> Iterator[str]:
    if not directory.receipt.exists():
        return
    receipt = read_json(directory.receipt)
    tally = ledger.tally()
    expected = make_receipt(tally, directory.run_id, directory.facts()["identity"], None, None)
    for key in ("items", "mini_batches", "rows", "config_sha256", "script_sha256", "plan_sha256"):
        if receipt[key] != expected[key]:
            yield f"receipt.json says {key} = {receipt[key]}, the ledger {expected[key]}"
    if receipt["output_file"] is not None:
        place = receipt["output_file"]
        if (size := size_of(place)) is None:
            yield f"{place} is gone"
        elif size != receipt["bytes"] or file_sha256(place) != receipt["sha256"]:
            yield f"{place} is not what was published: its size or SHA-256 is another"
        elif (
            parts_are_whole
            and receipt["format"] != "parquet"
            and receipt["sha256"] != _put_together(directory, ledger, receipt)
        ):
            yield f"{place} is not what the parts of the run put together are"


def _put_together(directory: RunDirectory, ledger: Ledger, receipt: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the committed rows in mini-batch order; text formats only."""
    total = hashlib.sha256()
    options = directory.facts()["config"].get("append_row_csv_options") or {}
    with Parts() as parts:
        write_text(part_ranges(directory, ledger), parts, Dialect.of(receipt["format"], options), total.update)
    return total.hexdigest()


def summary(directory: RunDirectory) -> dict[str, object]:
    """Return the counts of a run as its ledger has them now, and its state."""
    with Ledger(directory.ledger) as ledger:
        facts, tally = ledger.facts(), ledger.tally()
    status = status_of(facts, is_driven=directory.driver() is not None)
    return {
        "run": directory.run_id,
        "run_directory": os.fspath(directory.path),
        "status": status,
        "reason": facts.get("reason", ""),
        **tally.by_outcome(),
        "waiting": tally.waiting,
        "drives": int(facts.get("drives", "0")),
        "paused": status == "running" and facts.get("paused") == "1",
    }
