"""The final reduction: checks the limits on the final counts, publishes the committed rows as one file, writes the receipt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import LimitExceededError, NothingSucceededError, OutputError, RowsDifferError, RunFileError
from prefect_parallel_run.models import FailureLimits, Tally
from prefect_parallel_run.output.columns import add_files
from prefect_parallel_run.output.failed_items import write_failed_items
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Sink
from prefect_parallel_run.output.parts import Parts, StoredRows
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.failures import first_failure
from prefect_parallel_run.runs.fingerprint import listing_sha256
from prefect_parallel_run.runs.ledger import Ledger, Place
from prefect_parallel_run.runs.run_directory import RunDirectory, write_json
from prefect_parallel_run.storage.objects import upload

_CHECK_INTERVAL = 256  #: mini-batches between two calls of check_cancelled


class Published(NamedTuple):
    """Size, checksum and rows of a result file."""

    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """The file to publish."""

    path: Path  #: the local file
    location: str  #: its path, or the URL to which it is uploaded
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)  #: options of to_csv that the rows were written with


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """The parameters of a reduction."""

    directory: RunDirectory
    limits: FailureLimits
    result: ResultFile | None  #: None for summary_only
    identity: dict[str, Any]
    output: str | None  #: folder or URL for the script's own files; None if it writes none
    check_cancelled: CheckCancelled  #: called repeatedly; raises to stop
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
        published, result = None, task.result
        if result is not None:
            if tally.items and not tally.succeeded_items and not tally.rows:
                raise NothingSucceededError(tally.items, str(directory.path), first_failure(ledger))
            published = _publish(task, result, ledger)
            if published.rows != tally.rows:
                raise OutputError(str(result.path), f"wrote {published.rows} rows, but {tally.rows} are committed")
        receipt = {
            **make_receipt(tally, directory.run_id, task.identity, result.location if result else None, published),
            "format": result.format if result else None,
            "limits": asdict(task.limits),
            "finished": time.time(),
            **task.notes,
        }
        if result is not None and is_remote(result.location):
            uploading = Background("upload", partial(upload, result.path, result.location))
            receipt["version"] = uploading.wait(task.check_cancelled)
            result.path.unlink()
        if task.output is not None:
            receipt["output_listing"] = listing_sha256(task.output)
        write_json(directory.receipt, receipt)
    return receipt


def _publish(task: Reduction, result: ResultFile, ledger: Ledger) -> Published:
    places = _with_cancellation(ledger.places(), task.check_cancelled)
    try:
        with Parts(task.directory.parts) as parts:
            return publish(places, parts, result.path, result.format, task.directory.run_id, result.options)
    except RowsDifferError as error:
        raise add_files(error, Plan(task.directory.plan), error.path or result.location) from None


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
        target: The result file; an existing file is replaced at the very end.
        row_format: The format that the rows were encoded in.
        token: Part of the temporary file's name, unique to the run.
        row_options: Options of pandas.DataFrame.to_csv that the rows were written with.

    Raises:
        RowsDifferError: The columns of two mini-batches differ.
        OutputError: The file cannot be written, or a part differs from the ledger.
            An existing file is unchanged in all cases.
    """
    try:
        with wrap_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with AtomicFile(target, sync=True, sync_folder=True, token=token) as file:
                sink = Sink(file.write)
                rows = OUTPUT_FORMATS[row_format].write(places, parts, sink, row_options or {})
                size = file.tell()
    except pa.ArrowException as error:
        raise OutputError(str(target), f"cannot be written as {row_format}: {error}") from error
    except RowsDifferError as error:
        raise RowsDifferError(str(target), error.reason, error.mini_batch, other=error.other) from error
    except RunFileError:
        raise
    except OutputError as error:
        raise OutputError(str(target), error.reason) from error
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


def _with_cancellation(places: Iterator[Place], check_cancelled: CheckCancelled) -> Iterator[Place]:
    for number, place in enumerate(places):
        if number % _CHECK_INTERVAL == 0:
            check_cancelled()
        yield place
