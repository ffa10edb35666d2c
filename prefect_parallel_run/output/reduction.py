"""The final reduction: checks the limits on the final counts, publishes the committed rows, writes the receipt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import LimitExceededError, NothingSucceededError, OutputError, RowsDifferError
from prefect_parallel_run.models import FailureLimits, Tally
from prefect_parallel_run.output.columns import add_files
from prefect_parallel_run.output.failed_items import write_failed_items
from prefect_parallel_run.output.folder import Publication, Rows
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Sink
from prefect_parallel_run.output.part_writer import WriteParts, naming_errors, with_cancellation, write_here
from prefect_parallel_run.output.parts import Parts, StoredRows
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.failures import first_failure
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage.manifest import ResultPart, as_plain, combined_sha256
from prefect_parallel_run.storage.objects import upload
from prefect_parallel_run.storage.result_folder import check_replaceable, delete_stale


class Published(NamedTuple):
    """Size, checksum and rows of a result."""

    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """The file or folder to publish."""

    path: Path  #: on the local disk
    location: str  #: its path, or the URL to which it is uploaded
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)  #: options of to_csv that the rows were written with
    max_file_bytes: int | None = None  #: limit for each part of a folder; None: a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """The parameters of a reduction."""

    directory: RunDirectory
    limits: FailureLimits
    result: ResultFile | None  #: None for summary_only
    identity: dict[str, Any]
    output: str | None  #: folder or URL for the script's own files; None if it writes none
    check_cancelled: CheckCancelled  #: called repeatedly; raises to stop
    write_parts: WriteParts = write_here
    notes: Mapping[str, Any] = field(default_factory=dict)  #: additional entries of the receipt


def reduce(task: Reduction) -> dict[str, Any]:
    """Publish the result of a run whose mini-batches have all finished, and return its receipt.

    Raises:
        LimitExceededError: A limit is exceeded; nothing is published.
        NothingSucceededError: The input had items, but none of them returned a row.
        RowsDifferError: The columns of two mini-batches differ; names their files.
        OutputError: The result could not be written; an existing result is unchanged.
    """
    directory = task.directory
    with Ledger(directory.ledger) as ledger:
        tally = ledger.tally()
        write_failed_items(directory, ledger)
        breach = task.limits.first_breach(tally)
        if breach is not None:
            raise LimitExceededError(*breach, str(directory.path), first_failure(ledger))
        published: Published | None = None
        parts: tuple[ResultPart, ...] = ()
        result = task.result
        if result is not None:
            if tally.items and not tally.succeeded_items and not tally.rows:
                raise NothingSucceededError(tally.items, str(directory.path), first_failure(ledger))
            published, parts = _publish(task, result, ledger, tally)
        receipt = {
            **make_receipt(tally, directory.run_id, task.identity, result.location if result else None, published),
            "format": result.format if result else None,
            "limits": asdict(task.limits),
            "finished": time.time(),
            **task.notes,
        }
        if parts:
            receipt["parts"] = as_plain(parts)
        elif result is not None and is_remote(result.location):
            uploading = Background("upload", partial(upload, result.path, result.location))
            receipt["version"] = uploading.wait(task.check_cancelled)
            delete_stale(result.location, ())
            result.path.unlink()
        if task.output is not None:
            receipt["output_listing"] = listing_sha256(task.output)
        write_json(directory.receipt, receipt)
    return receipt


def _publish(task: Reduction, result: ResultFile, ledger: Ledger, tally: Tally) -> tuple[Published, tuple[ResultPart, ...]]:
    """Publish the rows; return the result, and its parts if it is a folder."""
    directory = task.directory
    try:
        if result.max_file_bytes is not None:
            parts = _publish_folder(task, result, result.max_file_bytes, ledger, tally)
            return Published(sum(part.bytes for part in parts), combined_sha256(parts), tally.rows), parts
        places = with_cancellation(ledger.places(), task.check_cancelled)
        with Parts(directory.parts) as source:
            published = publish(places, source, result.path, result.format, directory.run_id, result.options)
    except RowsDifferError as error:
        raise add_files(error, Plan(directory.plan), error.path or result.location) from None
    if published.rows != tally.rows:
        raise OutputError(str(result.path), f"wrote {published.rows} rows, but {tally.rows} are committed")
    return published, ()


def _publish_folder(
    task: Reduction, result: ResultFile, most_bytes: int, ledger: Ledger, tally: Tally
) -> tuple[ResultPart, ...]:
    rows = Rows(
        ledger=ledger,
        source=task.directory.parts,
        format=result.format,
        options=result.options,
        most_bytes=most_bytes,
    )
    publication = Publication(
        rows=rows,
        count=tally.rows,
        path=result.path,
        location=result.location,
        token=task.directory.run_id,
        write_parts=task.write_parts,
        check_cancelled=task.check_cancelled,
    )
    return publication.publish()


def publish(
    places: Iterable[StoredRows],
    parts: Parts,
    target: Path,
    row_format: str,
    token: str,
    row_options: Mapping[str, Any] | None = None,
) -> Published:
    """Write the rows at *places* in order to a temporary file beside *target*, and rename it when it is complete.

    Args:
        places: Rows of all succeeded mini-batches.
        parts: The part files with the rows.
        target: The result file; an existing file, or a folder of parts, is replaced at the very end.
        row_format: The format that the rows were encoded in.
        token: Part of the temporary file's name, unique to the run.
        row_options: Options of pandas.DataFrame.to_csv that the rows were written with.

    Raises:
        RowsDifferError: The columns of two mini-batches differ.
        OutputError: The file cannot be written, or a part differs from the ledger.
            An existing file is unchanged in all cases.
    """
    with naming_errors(str(target), row_format):
        check_replaceable(str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = AtomicFile(target, sync=True, sync_folder=True, token=token)
        temporary.replaces_folders = target.is_dir() and any(target.iterdir())  # an empty folder is not a result
        with temporary as file:
            sink = Sink(file.write)
            rows = OUTPUT_FORMATS[row_format].write(places, parts, sink, row_options or {})
            size = file.tell()
    return Published(size, sink.sha256, rows)


def make_receipt(
    tally: Tally, run_id: str, identity: Mapping[str, Any] | None, result: str | None, published: Published | None
) -> dict[str, Any]:
    """Return the receipt; every item and every mini-batch counts once as succeeded, failed or not reached."""
    return {
        "run_id": run_id,
        **tally.by_outcome(),
        "output_file": result,
        "bytes": published.bytes if published is not None else None,
        "sha256": published.sha256 if published is not None else None,
        **{key: identity[key] for key in ("config_sha256", "script_sha256", "plan_sha256") if identity is not None},
    }
