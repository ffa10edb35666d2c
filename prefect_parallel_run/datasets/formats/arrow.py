"""Arrow IPC files (Feather version 2 included) and IPC streams: divided at and inside record batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.datasets.formats.base import CutFile
from prefect_parallel_run.datasets.formats.row_groups import about_gaps, allocate_bytes, changed_by_gaps, pieces
from prefect_parallel_run.storage.folders import ListedFile

_MAGIC = b"ARROW1"  #: first bytes of a file; a stream has others


class Arrow:
    """Arrow IPC files and streams."""

    def cut(self, file: ListedFile, size: int) -> CutFile:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows)."""
        counts: list[int] = []
        gaps: set[int] = set()
        names: list[str] | None = None
        indices: list[int] = []
        with open_file(file.path) as source:
            is_stream = source.read(len(_MAGIC)) != _MAGIC
            source.seek(0)
            for schema, batch in _batches_of_stream(source) if is_stream else _batches_of_file(source):
                if names is None:
                    names, indices = schema.names, changed_by_gaps(schema)
                counts.append(batch.num_rows)
                gaps.update(index for index, column in zip(indices, batch.columns, strict=False) if column.null_count)
        about = {**about_gaps(gaps), **({"is_stream": True} if is_stream else {})}
        return CutFile(about, pieces("arrow", allocate_bytes(counts, file.size), size), names=names)


def _batches_of_file(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the file's schema with every batch, reduced to the columns that nulls affect (without any, to one column)."""
    with pa.ipc.open_file(source) as whole:
        schema = whole.schema
        included = changed_by_gaps(schema) or [0][: len(schema)]
    with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=included)) as narrow:
        for number in range(narrow.num_record_batches):
            yield schema, narrow.get_batch(number)


def _batches_of_stream(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the schema with every reduced batch of a stream, which has to be read completely."""
    with pa.ipc.open_stream(source) as stream:
        indices = changed_by_gaps(stream.schema)
        for batch in stream:
            yield stream.schema, batch.select(indices)
