"""Publishes a result that is a folder of parts: plans them, has them written, and publishes either all of them or none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_parallel_run._atomic import atomic_folder, remove, sync, temporary_folder
from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.rows import row_format
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Layout, Sink
from prefect_parallel_run.output.part_plan import cut
from prefect_parallel_run.output.part_writer import (
    TEMPORARY,
    PartTask,
    WriteParts,
    WrittenPart,
    naming_errors,
    with_cancellation,
)
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.runs.ledger import Ledger, Place
from prefect_parallel_run.storage.manifest import MANIFEST, ResultPart, encode, is_part_name, part_name
from prefect_parallel_run.storage.objects import names_below, write
from prefect_parallel_run.storage.result_folder import check_replaceable, delete_stale, with_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The committed rows of a run, as a result folder divides them."""

    ledger: Ledger
    source: Path  #: folder with the children's part files
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)  #: options of to_csv that the rows were written with
    most_bytes: int  #: of a part

    def layout(self, check_cancelled: CheckCancelled) -> Layout:
        """Return what the parts have in common; raises RowsDifferError and OutputError."""
        with Parts(self.source) as parts:
            return OUTPUT_FORMATS[self.format].layout(with_cancellation(self.ledger.places(), check_cancelled), parts)

    def parts(self, layout: Layout) -> Iterator[list[Place]]:
        """Yield the ranges of every part."""
        return cut(self.ledger.places(), self.most_bytes, len(layout.header))


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A folder of parts to publish."""

    rows: Rows
    count: int  #: committed rows
    path: Path  #: folder on the local disk; for a URL, one that is deleted afterwards
    location: str  #: path or URL of the result
    token: str  #: unique to the run
    write_parts: WriteParts
    check_cancelled: CheckCancelled

    def publish(self) -> tuple[ResultPart, ...]:
        """Publish the rows, and return the parts; an existing result is replaced at the very end.

        Raises:
            RowsDifferError: The columns of two mini-batches differ.
            OutputError: The folder cannot be written, or a part file differs from the ledger.
        """
        with naming_errors(self.location, self.rows.format):
            layout = self.rows.layout(self.check_cancelled)
            return self._publish_objects(layout) if is_remote(self.location) else self._publish_files(layout)

    def _publish_files(self, layout: Layout) -> tuple[ResultPart, ...]:
        check_replaceable(str(self.path))
        with atomic_folder(self.path, token=self.token, replaces=True) as folder:
            written = self._write(layout, folder)
            for part in written:
                _accept(part, folder)
            for path in list(folder.glob(f"*{TEMPORARY}")):  # of attempts on nodes that were lost
                remove(path)
            sync(folder)
        sync(self.path.parent)
        return tuple(part.part for part in written)

    def _publish_objects(self, layout: Layout) -> tuple[ResultPart, ...]:
        """Upload the parts, then the manifest: to readers, an earlier result is the current one until then."""
        check_replaceable(self.location)
        existing = list(filter(is_part_name, names_below(self.location)))
        if MANIFEST not in existing:
            write(f"{self.location}/{MANIFEST}", encode(()))  # readers then ignore the parts uploaded so far
        with temporary_folder(self.path) as folder:
            written = self._write(layout, folder, uuid.uuid4().hex[:6] if existing else "")
        parts = [part.part for part in written]
        write(f"{self.location}/{MANIFEST}", encode(parts))
        delete_stale(self.location, parts)
        return with_versions(self.location, parts)

    def _write(self, layout: Layout, folder: Path, name_token: str = "") -> list[WrittenPart]:
        """Have all parts written, and return them in order; raises OutputError when they lack committed rows."""
        written = sorted(self.write_parts(self._tasks(layout, folder, name_token), self.check_cancelled))
        rows = sum(part.part.rows for part in written)
        if rows != self.count:
            raise OutputError(self.location, f"wrote {rows} rows, but {self.count} are committed")
        return written

    def _tasks(self, layout: Layout, folder: Path, name_token: str) -> Iterator[PartTask]:
        rows, encoding = self.rows, row_format(self.rows.format)
        count = sum(1 for _ in rows.parts(layout))
        for number, places in enumerate(rows.parts(layout)):
            yield PartTask(
                number=number,
                name=part_name(number, count, encoding.suffix or encoding.extension, name_token),
                ranges=[tuple(place) for place in places],
                layout=layout,
                format=rows.format,
                options=rows.options,
                source=str(rows.source),
                folder=str(folder),
                location=self.location,
            )


def _accept(written: WrittenPart, folder: Path) -> None:
    """Rename a part to its final name; raises OutputError when its size differs from the size that its writer reported."""
    path = folder / written.file
    if (size := path.stat().st_size) != written.part.bytes:
        raise OutputError(str(path), f"{written.part.name} has {size} bytes, but {written.part.bytes} were written")
    path.rename(folder / written.part.name)


def assembled_sha256(rows: Rows) -> list[str]:
    """Return the SHA-256 of every part, from the committed rows; only for reproducible formats."""
    layout = rows.layout(never_cancelled)
    checksums = []
    with Parts(rows.source) as parts:
        for places in rows.parts(layout):
            sink = Sink(lambda _: None)
            OUTPUT_FORMATS[rows.format].write(places, parts, sink, rows.options, layout)
            checksums.append(sink.sha256)
    return checksums
