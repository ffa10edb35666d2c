"""Arrow IPC files, which Feather files are too since version 2, and IPC streams: cut by record batches and inside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import about_gaps, allocate_bytes, changed_by_gaps, pieces
from prefect_parallel_run.storage.folders import Listed

_MAGIC = b"ARROW1"  #: what a file begins with, and a stream does not


class Arrow:
    """Arrow IPC files and streams."""

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut; of a file only columns that a null may change are read, or one to count the rows."""
        counts: list[int] = []
        gaps: set[int] = set()
        names: list[str] | None = None
        places: list[int] = []
        with open_file(file.path) as source:
            is_stream = source.read(len(_MAGIC)) != _MAGIC
            source.seek(0)
            for schema, batch in _batches_of_stream(source) if is_stream else _batches_of_file(source):
                if names is None:
                    names, places = schema.names, changed_by_gaps(schema)
                counts.append(batch.num_rows)
                gaps.update(place for place, column in zip(places, batch.columns, strict=False) if column.null_count)
        about = {**about_gaps(gaps), **({"is_stream": True} if is_stream else {})}
        return CutFile(about, pieces("arrow", allocate_bytes(counts, file.size), size), names=names)


def _batches_of_file(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the file's schema with every batch, of which only the columns that a gap changes are read, or else one."""
    with pa.ipc.open_file(source) as whole:
        schema = whole.schema
        included = changed_by_gaps(schema) or [0][: len(schema)]
    with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=included)) as narrow:
        for number in range(narrow.num_record_batches):
            yield schema, narrow.get_batch(number)


def _batches_of_stream(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the same of a stream, which is read from beginning to end."""
    with pa.ipc.open_stream(source) as stream:
        places = changed_by_gaps(stream.schema)
        for batch in stream:
            yield stream.schema, batch.select(places)
