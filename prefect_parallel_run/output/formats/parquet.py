"""Parquet: files from the Arrow streams of the children, with one schema for all mini-batches, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.output.columns import Columns, fit, read_table
from prefect_parallel_run.output.formats.base import Layout, OutputFormat, Sink
from prefect_parallel_run.output.parts import Parts, StoredRows

_GROUP_BYTES = 64 << 20  #: approximate size of a row group


class Parquet(OutputFormat):
    """The type of each column holds its values in all mini-batches without loss."""

    has_one_schema = True
    is_reproducible = False

    def layout(self, places: Iterable[StoredRows], parts: Parts) -> Layout:  # noqa: D102  inherited
        schema = self._schema((place for place in places if place.rows), parts)
        return Layout(schema.serialize().to_pybytes(), 0)

    def _schema(self, places: Iterable[StoredRows], parts: Parts) -> pa.Schema:
        columns = Columns()
        for place in places:
            columns.add(place, parts)
        return self.storable(columns.schema)

    def write(  # noqa: D102  inherited
        self,
        places: Iterable[StoredRows],
        parts: Parts,
        sink: Sink,
        options: Mapping[str, Any],  # noqa: ARG002  other formats need them
        layout: Layout | None = None,
    ) -> int:
        non_empty = [place for place in places if place.rows]
        schema = self._schema(non_empty, parts) if layout is None else pa.ipc.read_schema(pa.py_buffer(layout.header))
        rows = size = 0
        pending: list[pa.Table] = []
        with self.open(sink, schema) as write:
            for place in non_empty:
                table = _fit(read_table(place, parts), schema)
                pending.append(table)
                size += table.nbytes
                rows += table.num_rows
                if size >= _GROUP_BYTES:
                    write(pa.concat_tables(pending).combine_chunks())
                    pending, size = [], 0
            if pending:
                write(pa.concat_tables(pending).combine_chunks())
        return rows

    def storable(self, schema: pa.Schema) -> pa.Schema:
        """Return *schema* with types that the file can hold."""
        return schema

    @contextmanager
    def open(self, sink: Sink, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:
        """Open the file; yield a function that writes tables with *schema*."""
        with pq.ParquetWriter(sink, schema) as writer:
            yield writer.write_table


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast *table*, which has the columns of *schema* in any order."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    columns = [
        pa.chunked_array([fit(chunk, field.type) for chunk in table.column(field.name).chunks], field.type) for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
