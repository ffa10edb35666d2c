"""Verifies a run against its plan, ledger, parts and result. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect_parallel_run.errors import OutputError, RunFileError
from prefect_parallel_run.monitoring.status import status_of
from prefect_parallel_run.output.folder import Rows, assembled_sha256
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Sink
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.output.reduction import make_receipt
from prefect_parallel_run.runs.integrity import check_plan, ledger_problems
from prefect_parallel_run.runs.ledger import Ledger, Place
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.storage.manifest import parts_in
from prefect_parallel_run.storage.objects import file_sha256, size_of
from prefect_parallel_run.storage.result_folder import changes


def problems(directory: RunDirectory) -> Iterator[str]:
    """Yield one line per problem of a run."""
    yield from dict.fromkeys(_problems(directory))


def _problems(directory: RunDirectory) -> Iterator[str]:
    try:
        yield from _files(directory)
        with Ledger(directory.ledger) as ledger:
            part_problems = list(_parts(directory, ledger))
            yield from part_problems
            yield from _receipt(directory, ledger, parts_are_intact=not part_problems)
    except RunFileError as error:
        yield f"{Path(error.path).name} {error.reason}"


def _files(directory: RunDirectory) -> Iterator[str]:
    """Yield problems of the plan and the ledger; raises RunFileError when the ledger cannot be read."""
    try:
        check_plan(directory)
    except RunFileError as error:
        yield f"{Path(error.path).name} {error.reason}"
    with Ledger(directory.ledger) as ledger:
        for reason in ledger_problems(directory, ledger, is_whole=True):
            yield f"ledger.sqlite: {reason}"
        excessive = [str(number) for (number,) in ledger.rows(_TOO_MANY_ATTEMPTS)]
        if excessive:
            yield f"ledger.sqlite: mini-batches {', '.join(excessive)} had more attempts than run_max_try"


_TOO_MANY_ATTEMPTS = (
    "SELECT mini_batch FROM attempts JOIN mini_batches USING (mini_batch) GROUP BY mini_batch"
    " HAVING COUNT(*) > granted + (SELECT CAST(value AS INTEGER) FROM run WHERE key = 'run_max_try') LIMIT 5"
)


def _parts(directory: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Yield problems of the committed ranges, which must exist unaltered and must not overlap."""
    ranges = sorted(ledger.places(), key=lambda place: (place.part, place.offset))
    previous: Place | None = None
    with Parts(directory.parts) as parts:
        for place in ranges:
            if previous is not None and previous.part == place.part and place.offset < previous.offset + previous.length:
                yield f"mini-batches {previous.mini_batch} and {place.mini_batch} overlap in {place.part}"
            previous = place
            try:
                parts.copy([place], lambda _: None)
            except OutputError as error:
                yield error.reason


def _receipt(directory: RunDirectory, ledger: Ledger, *, parts_are_intact: bool) -> Iterator[str]:
    if not directory.receipt.exists():
        return
    receipt = read_json(directory.receipt)
    tally = ledger.tally()
    expected = make_receipt(tally, directory.run_id, directory.metadata()["identity"], None, None)
    for key in ("items", "mini_batches", "rows", "config_sha256", "script_sha256", "plan_sha256"):
        if receipt[key] != expected[key]:
            yield f"{key} is {receipt[key]} in receipt.json, but {expected[key]} in the ledger"
    if "parts" in receipt:
        yield from _folder(directory, ledger, receipt, parts_are_intact=parts_are_intact)
    elif receipt["output_file"] is not None:
        path = receipt["output_file"]
        if (size := size_of(path)) is None:
            yield f"{path} does not exist"
        elif size != receipt["bytes"] or file_sha256(path) != receipt["sha256"]:
            yield f"{path} was changed after it was published: its size or SHA-256 differs"
        elif (
            parts_are_intact
            and OUTPUT_FORMATS[receipt["format"]].is_reproducible
            and receipt["sha256"] != _assembled_sha256(directory, ledger, receipt)
        ):
            yield f"{path} differs from the rows in the parts of the run"


def _folder(directory: RunDirectory, ledger: Ledger, receipt: Mapping[str, Any], *, parts_are_intact: bool) -> Iterator[str]:
    """Yield problems of a result that is a folder of parts."""
    path, parts = receipt["output_file"], parts_in(receipt["parts"])
    problems = list(changes(path, parts, reads_objects=True))
    yield from problems
    if problems or not (parts_are_intact and OUTPUT_FORMATS[receipt["format"]].is_reproducible):
        return
    config = directory.metadata()["config"]
    rows = Rows(
        ledger=ledger,
        source=directory.parts,
        format=receipt["format"],
        options=config.get("append_row_csv_options") or {},
        most_bytes=config["append_row_max_file_size"],
    )
    if [part.sha256 for part in parts] != assembled_sha256(rows):
        yield f"{path} differs from the rows in the parts of the run"


def _assembled_sha256(directory: RunDirectory, ledger: Ledger, receipt: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the committed rows in mini-batch order; only for reproducible formats."""
    sink = Sink(lambda _: None)
    options = directory.metadata()["config"].get("append_row_csv_options") or {}
    with Parts(directory.parts) as parts:
        OUTPUT_FORMATS[receipt["format"]].write(ledger.places(), parts, sink, options)
    return sink.sha256


def summary(directory: RunDirectory) -> dict[str, object]:
    """Return the state of a run and the counts in its ledger."""
    with Ledger(directory.ledger) as ledger:
        metadata, tally = ledger.metadata(), ledger.tally()
    status = status_of(metadata, has_owner=directory.owner() is not None)
    return {
        "run": directory.run_id,
        "run_directory": os.fspath(directory.path),
        "status": status,
        "reason": metadata.get("reason", ""),
        **tally.by_outcome(),
        "waiting": tally.waiting,
        "drives": int(metadata.get("drives", "0")),
        "paused": status == "running" and metadata.get("paused") == "1",
    }
