"""Arrow and ORC files; how groups of rows become pieces, and which columns have a pandas type that depends on nulls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import orc

from prefect_parallel_run.child.row_groups import extension_types
from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.child.table_formats import TABLE_FORMATS
from prefect_parallel_run.datasets.formats import FilePlan, Piece, TablePlanner
from prefect_parallel_run.storage.folders import ListedFile

_MAGIC = b"ARROW1"  #: first bytes of an Arrow file; a stream has others


class Arrow(TablePlanner):
    """Divides Arrow IPC files (Feather version 2 included) and IPC streams at and inside record batches."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows)."""
        counts: list[int] = []
        nulls: set[int] = set()
        names: list[str] | None = None
        indices: list[int] = []
        with open_file(file.path) as source:
            is_stream = source.read(len(_MAGIC)) != _MAGIC
            source.seek(0)
            for schema, batch in _batches_of_stream(source) if is_stream else _batches_of_file(source):
                if names is None:
                    names, indices = schema.names, changed_by_nulls(schema)
                counts.append(batch.num_rows)
                nulls.update(index for index, column in zip(indices, batch.columns, strict=False) if column.null_count)
        work = {**nullable_field(nulls), **({"is_stream": True} if is_stream else {})}
        return FilePlan(work, pieces("arrow", allocate_bytes(counts, file.size), size), names=names)


def _batches_of_file(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the file's schema with every batch, reduced to the columns that nulls affect (without any, to one column)."""
    with pa.ipc.open_file(source) as whole:
        schema = whole.schema
        included = changed_by_nulls(schema) or [0][: len(schema)]
    with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=included)) as narrow:
        for number in range(narrow.num_record_batches):
            yield schema, narrow.get_batch(number)


def _batches_of_stream(source: BinaryIO) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """Yield the schema with every reduced batch of a stream, which has to be read completely."""
    with pa.ipc.open_stream(source) as stream:
        indices = changed_by_nulls(stream.schema)
        for batch in stream:
            yield stream.schema, batch.select(indices)


class Orc(TablePlanner):
    """Divides ORC files at and inside stripes."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows)."""
        with open_file(file.path) as source:
            orc_file = orc.ORCFile(source)
            indices = changed_by_nulls(orc_file.schema)
            columns = [orc_file.schema.field(index).name for index in indices] or _narrowest(orc_file.schema)
            counts: list[int] = []
            nulls: set[int] = set()
            for number in range(orc_file.nstripes):
                stripe = orc_file.read_stripe(number, columns=columns)
                counts.append(stripe.num_rows)
                nulls.update(index for index in indices if stripe.column(orc_file.schema.field(index).name).null_count)
        return FilePlan(
            nullable_field(nulls), pieces("orc", allocate_bytes(counts, file.size), size), names=orc_file.schema.names
        )


def _narrowest(schema: pa.Schema) -> list[str]:
    """Return the name of a column of numbers, or else of any column."""
    by_width = sorted(schema, key=lambda field: pa.types.is_nested(field.type) * 2 + (not pa.types.is_primitive(field.type)))
    return [field.name for field in by_width[:1]]


class Group(NamedTuple):
    """Rows that are decoded together."""

    number: int  #: in the file
    rows: int
    size: int  #: bytes


def pieces(kind: str, groups: Iterable[Group], size: int) -> Iterator[Piece]:
    """Yield pieces of about *size* bytes: large groups are split, small ones combined."""
    numbers: list[int] = []
    rows = total = 0
    for group in groups:
        if numbers and total + group.size > size:
            yield _piece(kind, numbers, 0, rows, total)
            numbers, rows, total = [], 0, 0
        if group.size > size and group.rows > 1:
            yield from _inside(kind, group, size)
        elif group.rows:
            numbers.append(group.number)
            rows, total = rows + group.rows, total + group.size
    if numbers:
        yield _piece(kind, numbers, 0, rows, total)


def _inside(kind: str, group: Group, size: int) -> Iterator[Piece]:
    count = min(-(-group.size // size), group.rows)
    for start, stop in pairwise(group.rows * number // count for number in range(count + 1)):
        yield _piece(kind, [group.number], start, stop, group.size * (stop - start) // group.rows)


def _piece(kind: str, numbers: list[int], start: int, stop: int, size: int) -> Piece:
    work = {TABLE_FORMATS[kind].groups: numbers, "start": start, "stop": stop, "rows": stop - start}
    return Piece(stop - start, size, work)


def allocate_bytes(counts: Sequence[int], size: int) -> list[Group]:
    """Return groups of *counts* rows, with a file's *size* allocated in proportion to their rows.

    >>> allocate_bytes([1, 3], 100)
    [Group(number=0, rows=1, size=25), Group(number=1, rows=3, size=75)]
    """
    total = max(sum(counts), 1)
    return [Group(number, rows, size * rows // total) for number, rows in enumerate(counts)]


def changed_by_nulls(schema: pa.Schema) -> list[int]:
    """Return the indices of integer and boolean columns whose pandas type depends on nulls: not of pandas' nullable types."""
    nullable_types = extension_types(schema)
    return [
        index
        for index, field in enumerate(schema)
        if field.nullable
        and field.name not in nullable_types
        and (pa.types.is_integer(field.type) or pa.types.is_boolean(field.type))
    ]


def nullable_field(indices: Iterable[int]) -> dict[str, list[int]]:
    """Return the fields of a mini-batch's work for the columns at *indices*, which contain a null somewhere in the file."""
    nullable = sorted(indices)
    return {"nullable": nullable} if nullable else {}
