"""One Parquet file from the Arrow streams that processes wrote: one schema for all mini-batches, bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.output.column_types import fit
from prefect_parallel_run.output.columns import Columns, read_table
from prefect_parallel_run.output.parts import PartRange, Parts

_GROUP_BYTES = 64 << 20  #: of rows gathered into one row group, about


def write_parquet(ranges: Sequence[PartRange], parts: Parts, file: IO[bytes]) -> int:
    """Write the rows of *ranges* in order and return their number.

    Every column has a type that holds its values of all mini-batches without loss.

    Raises:
        RowsDifferError: There is no such type, or a mini-batch has other columns; names column and mini-batch.
    """
    filled = [found for found in ranges if found.rows]
    columns = Columns()
    for found in filled:
        columns.add(found, parts)
    schema = columns.schema
    rows = held = 0
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(file, schema) as writer:
        for found in filled:
            table = _fit(read_table(found, parts), schema)
            waiting.append(table)
            held += table.nbytes
            rows += table.num_rows
            if held >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting, held = [], 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    return rows


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return *table* with *schema*, whose columns it has in any order."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    columns = [
        pa.chunked_array([fit(chunk, field.type) for chunk in table.column(field.name).chunks], field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
