"""Parquet: divided at and inside row groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.datasets.formats import FilePlan, TablePlanner
from prefect_parallel_run.datasets.formats.row_groups import Group, changed_by_nulls, nullable_field, pieces
from prefect_parallel_run.datasets.partitions import stored_values
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile

_EXACT = 2**53  #: the largest integer up to which float64 holds every integer


class Parquet(TablePlanner):
    """Divides Parquet files."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*, by its footer alone if that has the counts of nulls; columns of INT96 timestamps are read."""
        with open_file(file.path) as source, pq.ParquetFile(source) as parquet:
            metadata = parquet.metadata
            nulls = list(_with_nulls(parquet))
            messages = {f"large integers in {name}": _rounded(name) for name in _large(parquet, nulls)}
            unit = _int96_unit(parquet, file)
            names = parquet.schema_arrow.names
        work = {**nullable_field(nulls), **({"int96_unit": unit} if unit else {})}
        numbered = enumerate(map(metadata.row_group, range(metadata.num_row_groups)))
        groups = (Group(number, group.num_rows, group.total_byte_size) for number, group in numbered)
        return FilePlan(work, pieces("parquet", groups, size), stored_values(metadata.metadata), names=names, warnings=messages)


def _with_nulls(parquet: pq.ParquetFile) -> Iterator[int]:
    """Yield the indices of columns that contain a null which changes their pandas type."""
    metadata, schema = parquet.metadata, parquet.schema_arrow
    leaves = _leaves(parquet)
    for index in changed_by_nulls(schema):
        name = schema.field(index).name
        if any(_has_nulls(parquet, group, name, leaves[name]) for group in range(metadata.num_row_groups)):
            yield index


def _leaves(parquet: pq.ParquetFile) -> dict[str, list[int]]:
    leaves: dict[str, list[int]] = {}
    for leaf in range(parquet.metadata.num_columns):
        leaves.setdefault(parquet.metadata.schema.column(leaf).path, []).append(leaf)
    return leaves


def _large(parquet: pq.ParquetFile, nulls: Iterable[int]) -> Iterator[str]:
    """Yield the names of the columns at *nulls* with integers that a float64 cannot represent exactly."""
    leaves, groups = _leaves(parquet), range(parquet.metadata.num_row_groups)
    for position in nulls:
        field = parquet.schema_arrow.field(position)
        is_wide = pa.types.is_integer(field.type) and field.type.bit_width == 64
        if is_wide and any(_has_large(parquet, group, field.name, leaves[field.name]) for group in groups):
            yield field.name


def _has_large(parquet: pq.ParquetFile, number: int, name: str, leaves: list[int]) -> bool:
    group = parquet.metadata.row_group(number)
    statistics = [group.column(leaf).statistics for leaf in leaves]
    if all(entry is not None and entry.has_min_max for entry in statistics):
        bounds = [bound for entry in statistics for bound in (entry.min, entry.max)]
    else:
        columns = parquet.read_row_group(number, columns=[name]).columns
        bounds = [bound for column in columns for bound in pc.min_max(column).as_py().values() if bound is not None]
    return any(abs(bound) > _EXACT for bound in bounds)


def _rounded(name: str) -> str:
    return (
        f"has nulls in column {name!r} and integers beyond 2**53: pandas reads such a column as float64, which rounds them; "
        f"to keep every digit, write it with pandas' type Int64: frame.astype({{{name!r}: 'Int64'}}).to_parquet(...)"
    )


def _int96_unit(parquet: pq.ParquetFile, file: ListedFile) -> str | None:
    """Return "us" if an INT96 timestamp exceeds the range of nanoseconds, such as Spark's 9999-12-31, else None.

    Raises:
        InputError: There are both dates beyond nanoseconds and fractions finer than microseconds.
    """
    metadata, schema = parquet.metadata, parquet.schema_arrow
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
