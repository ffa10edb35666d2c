"""One Parquet file from the Arrow streams that processes wrote: the schema of the first mini-batch, bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.output.parts import PartRange, Parts

_GROUP_BYTES = 64 << 20  #: of rows gathered into one row group, about


def write_parquet(ranges: Sequence[PartRange], parts: Parts, file: IO[bytes]) -> int:
    """Write the rows of *ranges* in order and return their number.

    A column that holds nothing but nulls in a mini-batch takes the type it has in the others.

    Raises:
        RowsDifferError: The columns of a mini-batch are not those of the first; names column and mini-batch.
    """
    filled = [found for found in ranges if found.rows]
    schema = _schema(filled, parts)
    rows = held = 0
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(file, schema) as writer:
        for found in filled:
            table = _fit(_table(found, parts), schema, found.mini_batch, filled[0].mini_batch)
            waiting.append(table)
            held += table.nbytes
            rows += table.num_rows
            if held >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting, held = [], 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    return rows


def _schema(ranges: Sequence[PartRange], parts: Parts) -> pa.Schema:
    """Return the schema of the first mini-batch; a type it does not tell (nulls only) is taken from the next that does."""
    schema = pa.schema([])
    for number, found in enumerate(ranges):
        if number == 0:
            schema = _table(found, parts).schema
        elif found.rows:
            other = _table(found, parts).schema
            for place, field in enumerate(schema):
                if pa.types.is_null(field.type) and other.get_field_index(field.name) >= 0:
                    schema = schema.set(place, other.field(field.name))
        if not any(pa.types.is_null(field.type) for field in schema):
            break
    return schema


def _table(found: PartRange, parts: Parts) -> pa.Table:
    data = parts.read(found)
    try:
        with pa.ipc.open_stream(data) as stream:
            return stream.read_all()
    except pa.ArrowException as error:
        reason = f"{found.part.name} does not hold the rows of mini-batch {found.mini_batch} any more: {error}"
        raise OutputError(str(found.part), reason) from error


def _fit(table: pa.Table, schema: pa.Schema, mini_batch: int, first: int) -> pa.Table:
    """Return *table* with *schema*; raises RowsDifferError where it does not fit."""

    def differs(words: str) -> RowsDifferError:
        return RowsDifferError("", words, mini_batch, other=first)

    if table.schema.equals(schema):
        return table
    names, expected = table.schema.names, schema.names
    for name in expected:
        if name not in names:
            raise differs(f"mini-batch {mini_batch} has no column {name!r}, which the first mini-batch has")
    for name in names:
        if name not in expected:
            raise differs(f"mini-batch {mini_batch} has a column {name!r}, which the first mini-batch has not")
    if names != expected:
        raise differs(f"mini-batch {mini_batch} has its columns in the order {names}, the first one {expected}")
    columns = []
    for place, field in enumerate(schema):
        column = table.column(place)
        if column.type != field.type:
            if not pa.types.is_null(column.type):
                raise differs(f"column {field.name!r} is {column.type} in mini-batch {mini_batch}, {field.type} in the first")
            column = pa.chunked_array([pa.nulls(len(column), field.type)])
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
