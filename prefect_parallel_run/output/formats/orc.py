"""ORC: one file like a Parquet file, with the types that ORC has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import orc, types

from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.output.formats.base import Sink
from prefect_parallel_run.output.formats.parquet import Parquet

_MAX_DIGITS = 38
_SIGNED = {8: pa.int16(), 16: pa.int32(), 32: pa.int64(), 64: pa.decimal128(20, 0)}  #: by bits of the unsigned type


class Orc(Parquet):
    """ORC has no unsigned integers, half floats, categories or columns of nulls only: they get the next wider type."""

    def storable(self, schema: pa.Schema) -> pa.Schema:  # noqa: D102  inherited
        return pa.schema([pa.field(field.name, _storable(field.type, field.name)) for field in schema])

    @contextmanager
    def open(self, sink: Sink, schema: pa.Schema) -> Iterator[Callable[[pa.Table], object]]:  # noqa: D102  inherited
        with orc.ORCWriter(sink, compression="snappy") as writer:
            writer.write(schema.empty_table())  # a result without rows has the schema too
            yield writer.write


def _storable(kind: Any, column: str) -> pa.DataType:  # noqa: PLR0911  one case per kind
    """Return the ORC type that holds all values of an Arrow type from columns.unify()."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _storable(field.type, column)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_storable(kind.key_type, column), _storable(kind.item_type, column))
    if types.is_large_list(kind):
        return pa.large_list(_storable(kind.value_type, column))
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_storable(kind.value_type, column))
    if types.is_dictionary(kind):
        return _storable(kind.value_type, column)
    if types.is_unsigned_integer(kind):
        return _SIGNED[kind.bit_width]
    if types.is_float16(kind):
        return pa.float32()
    if types.is_null(kind):
        return pa.string()
    if types.is_decimal(kind):
        if kind.precision > _MAX_DIGITS:
            raise OutputError("", f"column {column!r} needs {kind.precision} digits; an ORC file holds {_MAX_DIGITS}")
        return pa.decimal128(kind.precision, kind.scale)
    return kind
