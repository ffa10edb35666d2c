"""Writes one part of a result folder, on any machine that shares the folders; a repeated call, on any machine, is safe."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefect_parallel_run._atomic import wrap_disk_errors
from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import OutputError, RowsDifferError, RunFileError
from prefect_parallel_run.node.worker_tasks import TaskRefusedError
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Layout, Sink
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.runs.ledger import Place
from prefect_parallel_run.storage.manifest import ResultPart
from prefect_parallel_run.storage.objects import upload

_CHECK_RANGES, _CHECK_BYTES = 256, 16 << 20  #: ranges, or bytes of them, between two calls of check_cancelled
TEMPORARY = ".tmp"  #: ending of the name of a part that is being written


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTask:
    """A part to write."""

    number: int  #: from 0
    name: str
    ranges: list[tuple[Any, ...]]  #: fields of each Place
    layout: Layout
    format: str
    options: Mapping[str, Any]  #: options of to_csv that the rows were written with
    source: str  #: folder with the children's part files
    folder: str  #: receives the part, under a name of its own
    location: str  #: path or URL of the result; for a URL, the part is uploaded and deleted from *folder*


class WrittenPart(NamedTuple):
    """A part that is complete."""

    number: int
    part: ResultPart
    file: str  #: its name in the folder of the task


#: Has parts written, in any order and anywhere; the callback is called repeatedly, and raises to stop.
WriteParts = Callable[[Iterable[PartTask], CheckCancelled], Iterator[WrittenPart]]


def write_here(tasks: Iterable[PartTask], check_cancelled: CheckCancelled) -> Iterator[WrittenPart]:
    """Write parts one after the other in this process."""
    return (write_part(task, check_cancelled) for task in tasks)


def write_on_node(task: PartTask, check_cancelled: CheckCancelled) -> WrittenPart:
    """Write one part on a node; raises TaskRefusedError if the node does not share the folders with the flow process."""
    if not (Path(task.folder).is_dir() and Path(task.source).is_dir()):
        raise TaskRefusedError(task.folder)
    return write_part(task, check_cancelled)


def write_part(task: PartTask, check_cancelled: CheckCancelled) -> WrittenPart:
    """Write one part. Every call writes its own temporary file, and deletes it after an error or after the upload to a store.

    Raises:
        RowsDifferError: The columns of a mini-batch differ from those of the result.
        OutputError: The part cannot be written, or the committed rows were altered.
    """
    file = f"{task.number}-{uuid.uuid4().hex}{TEMPORARY}"
    path, is_kept = Path(task.folder, file), False
    try:
        with naming_errors(task.location, task.format):
            part = _write(task, path, check_cancelled)
            if is_remote(task.location):
                upload(path, f"{task.location}/{task.name}", check_cancelled)
        is_kept = not is_remote(task.location)
    finally:
        if not is_kept:
            path.unlink(missing_ok=True)
    return WrittenPart(task.number, part, file)


def _write(task: PartTask, path: Path, check_cancelled: CheckCancelled) -> ResultPart:
    places = list(map(Place._make, task.ranges))
    with path.open("xb") as file, Parts(Path(task.source)) as parts:
        sink = Sink(file.write)
        ranges = with_cancellation(places, check_cancelled)
        rows = OUTPUT_FORMATS[task.format].write(ranges, parts, sink, task.options, task.layout)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if rows != (committed := sum(place.rows for place in places)):
        raise OutputError(task.location, f"{task.name} has {rows} rows, but {committed} are committed")
    return ResultPart(task.name, rows, size, sink.sha256)


def with_cancellation(places: Iterable[Place], check_cancelled: CheckCancelled) -> Iterator[Place]:
    """Yield *places*, and call *check_cancelled* regularly."""
    size = 0
    for number, place in enumerate(places):
        if number % _CHECK_RANGES == 0 or size >= _CHECK_BYTES:
            check_cancelled()
            size = 0
        size += place.length
        yield place


@contextmanager
def naming_errors(location: str, row_format: str) -> Iterator[None]:
    """Convert errors to those of this package, and have them name the result."""
    try:
        with wrap_disk_errors(Path(location)):
            yield
    except pa.ArrowException as error:
        raise OutputError(location, f"cannot be written as {row_format}: {error}") from error
    except RowsDifferError as error:
        raise RowsDifferError(location, error.reason, error.mini_batch, other=error.other) from error
    except RunFileError:
        raise
    except OutputError as error:
        raise OutputError(location, error.reason) from error
