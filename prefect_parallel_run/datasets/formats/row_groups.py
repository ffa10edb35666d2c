"""Parquet, Arrow and ORC files: divided at and inside groups of rows.

Some columns have a pandas type that depends on nulls anywhere in the file.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import orc

from prefect_parallel_run.child.row_groups import extension_types, kept_indices, read_stripe
from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.child.table_formats import TABLE_FORMATS
from prefect_parallel_run.datasets.formats import FilePlan, Piece, TablePlanner
from prefect_parallel_run.datasets.partitions import stored_values
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile

_MAGIC = b"ARROW1"  #: first bytes of an Arrow file; a stream has others
_EXACT = 2**53  #: the largest integer up to which float64 holds every integer


class _Scan:
    """What planning learns from the data of a file: rows of each group, columns with nulls, sizes of the kept columns.

    Args:
        schema: The file's columns.
        selection: Fields of a work with the columns that the dataset keeps; without any, the file's size counts.
    """

    def __init__(self, schema: pa.Schema, selection: Mapping[str, Any]) -> None:
        kept, indices = kept_schema(schema, selection), kept_indices(schema.names, selection)
        self._nullable = changed_by_nulls(kept)
        widths = [field.type.bit_width if pa.types.is_primitive(field.type) else None for field in kept]
        self._measured = {} if indices is None else {place: width for place, width in enumerate(widths) if width is None}
        self._bits = None if indices is None else sum(filter(None, widths))
        self._places = sorted({*self._nullable, *self._measured})
        #: Indices in the file of the columns to read: their nulls or sizes are known only from the data.
        self.indices = self._places if indices is None else [indices[place] for place in self._places]
        self._counts: list[int] = []
        self._sizes: list[int] = []
        self._nulls: set[int] = set()

    def add(self, group: pa.RecordBatch) -> None:
        """Add a group of rows, whose first columns are those at ``indices``."""
        self._counts.append(group.num_rows)
        columns = dict(zip(self._places, group.columns, strict=False))
        self._nulls.update(place for place in self._nullable if columns[place].null_count)
        if self._bits is not None:
            size = self._bits * group.num_rows // 8 + sum(columns[place].nbytes for place in self._measured)
            self._sizes.append(max(size, group.num_rows))

    def fields(self) -> dict[str, list[int]]:
        """Return the fields of a work about nulls."""
        return nullable_field(self._nulls)

    def groups(self, size: int) -> list[Group]:
        """Return the groups of a file of *size* bytes; kept columns have their size in memory, at most that of all columns."""
        groups = allocate_bytes(self._counts, size)
        if self._bits is None:
            return groups
        return [group._replace(size=min(group.size, kept)) for group, kept in zip(groups, self._sizes, strict=True)]


class Arrow(TablePlanner):
    """Divides Arrow IPC files (Feather version 2 included) and IPC streams at and inside record batches."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows).

        If the dataset keeps only some columns, it reads those of them whose size depends on the values, too.
        """
        selection = self._dataset.selection.fields()
        with open_file(file.path) as source:
            is_stream = source.read(len(_MAGIC)) != _MAGIC
            source.seek(0)
            with pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source) as whole:
                schema = whole.schema
            scan = _Scan(schema, selection)
            source.seek(0)
            indices = scan.indices if is_stream else scan.indices or [0][: len(schema)]
            for batch in _batches_of_stream(source, indices) if is_stream else _batches_of_file(source, indices):
                scan.add(batch)
        work = {**selection, **scan.fields(), **({"is_stream": True} if is_stream else {})}
        return FilePlan(work, pieces("arrow", scan.groups(file.size), size), names=schema.names)


def _batches_of_file(source: BinaryIO, indices: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yield every batch of a file, reduced to the columns at *indices*; without any, all columns."""
    with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=indices)) as narrow:
        for number in range(narrow.num_record_batches):
            yield narrow.get_batch(number)


def _batches_of_stream(source: BinaryIO, indices: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yield every batch of a stream, which has to be read completely, reduced to the columns at *indices*."""
    with pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield batch.select(indices)


class Orc(TablePlanner):
    """Divides ORC files at and inside stripes."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; reads only columns whose type depends on nulls (without any, one column to count rows).

        If the dataset keeps only some columns, it reads those of them whose size depends on the values, too.
        """
        selection = self._dataset.selection.fields()
        with open_file(file.path) as source:
            orc_file = orc.ORCFile(source)
            schema = orc_file.schema
            scan = _Scan(schema, selection)
            for number in range(orc_file.nstripes):
                scan.add(read_stripe(orc_file, number, scan.indices or _narrowest(schema)))
        return FilePlan({**selection, **scan.fields()}, pieces("orc", scan.groups(file.size), size), names=schema.names)


def _narrowest(schema: pa.Schema) -> list[int]:
    """Return the index of a column of numbers, or else of any column."""
    widths = [pa.types.is_nested(kind) * 2 + (not pa.types.is_primitive(kind)) for kind in schema.types]
    return sorted(range(len(widths)), key=widths.__getitem__)[:1]


class Parquet(TablePlanner):
    """Divides Parquet files."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*, by its footer alone if that has the counts of nulls; columns of INT96 timestamps are read."""
        selection = self._dataset.selection.fields()
        with open_file(file.path) as source, pq.ParquetFile(source) as parquet:
            metadata = parquet.metadata
            names, schema, conversion = self.columns(file, parquet.schema_arrow)
            nulls = list(_with_nulls(parquet, schema))
            messages = {f"large integers in {name}": _rounded(name) for name in _large(parquet, schema, nulls)}
            unit = _int96_unit(parquet, schema, file)
        work = {**selection, **nullable_field(nulls), **({"int96_unit": unit} if unit else {}), **conversion}
        groups = _groups(metadata, set(schema.names) if selection or conversion else None)
        return FilePlan(work, pieces("parquet", groups, size), stored_values(metadata.metadata), names=names, warnings=messages)

    def columns(self, _file: ListedFile, schema: pa.Schema) -> tuple[list[str], pa.Schema, dict[str, Any]]:
        """Return all names, the kept columns as the file names them, and the fields of a work that convert them."""
        return schema.names, kept_schema(schema, self._dataset.selection.fields()), {}


def _groups(metadata: pq.FileMetaData, names: Container[str] | None) -> Iterator[Group]:
    """Yield the row groups of a file with the size of the columns *names* (None: all) before compression."""
    leaves = range(metadata.num_columns)
    included = [] if names is None else [leaf for leaf in leaves if _is_below(metadata.schema.column(leaf).path, names)]
    for number, group in enumerate(map(metadata.row_group, range(metadata.num_row_groups))):
        size = group.total_byte_size
        if names is not None:
            kept = sum(group.column(leaf).total_uncompressed_size for leaf in included)
            size = min(size, max(kept, group.num_rows))
        yield Group(number, group.num_rows, size)


def _is_below(path: str, names: Container[str]) -> bool:
    """True when the leaf at *path* belongs to one of the columns *names*, which may contain dots themselves."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in names for length in range(1, len(parts) + 1))


def kept_schema(schema: pa.Schema, selection: Mapping[str, Any]) -> pa.Schema:
    """Return *schema* with only the columns that a work with these fields keeps."""
    indices = kept_indices(schema.names, selection)
    return schema if indices is None else pa.schema([schema.field(index) for index in indices], schema.metadata)


def _with_nulls(parquet: pq.ParquetFile, schema: pa.Schema) -> Iterator[int]:
    """Yield the indices in *schema* of columns that contain a null which changes their pandas type."""
    metadata, leaves = parquet.metadata, _leaves(parquet)
    for index in changed_by_nulls(schema):
        name = schema.field(index).name
        if any(_has_nulls(parquet, group, name, leaves[name]) for group in range(metadata.num_row_groups)):
            yield index


def _leaves(parquet: pq.ParquetFile) -> dict[str, list[int]]:
    leaves: dict[str, list[int]] = {}
    for leaf in range(parquet.metadata.num_columns):
        leaves.setdefault(parquet.metadata.schema.column(leaf).path, []).append(leaf)
    return leaves


def _large(parquet: pq.ParquetFile, schema: pa.Schema, nulls: Iterable[int]) -> Iterator[str]:
    """Yield the names of the columns at *nulls* in *schema* with integers that a float64 cannot represent exactly."""
    leaves, groups = _leaves(parquet), range(parquet.metadata.num_row_groups)
    for position in nulls:
        field = schema.field(position)
        is_wide = pa.types.is_integer(field.type) and field.type.bit_width == 64
        if is_wide and any(_has_large(parquet, group, field.name, leaves[field.name]) for group in groups):
            yield field.name


def _has_large(parquet: pq.ParquetFile, number: int, name: str, leaves: list[int]) -> bool:
    group = parquet.metadata.row_group(number)
    statistics = [group.column(leaf).statistics for leaf in leaves]
    if all(entry is not None and entry.has_min_max for entry in statistics):
        bounds = [bound for entry in statistics for bound in (entry.min, entry.max)]
    else:
        table = parquet.read_row_group(number, columns=[name])  # "a.b" also selects the field b of a column a
        columns = [column for column, leaf in zip(table.columns, table.column_names, strict=True) if leaf == name]
        bounds = [bound for column in columns for bound in pc.min_max(column).as_py().values() if bound is not None]
    return any(abs(bound) > _EXACT for bound in bounds)


def _rounded(name: str) -> str:
    return (
        f"has nulls in column {name!r} and integers beyond 2**53: pandas reads such a column as float64, which rounds them; "
        f"to keep every digit, write it with pandas' type Int64: frame.astype({{{name!r}: 'Int64'}}).to_parquet(...), "
        "or cast it to text if the rows come from a query"
    )


def _int96_unit(parquet: pq.ParquetFile, schema: pa.Schema, file: ListedFile) -> str | None:
    """Return "us" if an INT96 timestamp in *schema* exceeds the range of nanoseconds, such as Spark's 9999-12-31, else None.

    Raises:
        InputError: There are both dates beyond nanoseconds and fractions finer than microseconds.
    """
    metadata = parquet.metadata
    columns = [metadata.schema.column(leaf) for leaf in range(metadata.num_columns)]
    paths = {column.path.partition(".")[0] for column in columns if column.physical_type == "INT96"}
    names = [name for name in schema.names if any(name == path or name.startswith(f"{path}.") for path in paths)]
    if not names:
        return None
    beyond: set[str] = set()
    fine: set[str] = set()
    with open_file(file.path) as source, pq.ParquetFile(source, coerce_int96_timestamp_unit="us") as in_micros:
        for group in range(metadata.num_row_groups):
            in_nanos, coarse = parquet.read_row_group(group, columns=names), in_micros.read_row_group(group, columns=names)
            for name, exact, rough in zip(in_nanos.column_names, in_nanos.columns, coarse.columns, strict=True):
                if not rough.cast(exact.type, safe=False).equals(exact):
                    fine.add(name)
                if _overflows(rough, exact.type):
                    beyond.add(name)
    if beyond and fine:
        raise InputError(
            file.path,
            f"column {min(beyond)!r} has INT96 timestamps beyond the range of nanoseconds (1677 to 2262), and column "
            f"{min(fine)!r} has fractions finer than microseconds; no unit can represent both: write plain timestamps instead",
        )
    return "us" if beyond else None


def _overflows(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return True
    return False


def _has_nulls(parquet: pq.ParquetFile, number: int, name: str, leaves: list[int]) -> bool:
    group = parquet.metadata.row_group(number)
    statistics = [group.column(leaf).statistics for leaf in leaves]
    if all(entry is not None and entry.has_null_count for entry in statistics):
        return any(entry.null_count for entry in statistics)
    return any(column.null_count for column in parquet.read_row_group(number, columns=[name]).columns)


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
