"""Converts Arrow tables to pandas, with unchanged values inside lists, structs and maps."""

from typing import Any

from .maps import holds_map, with_entries
from .table_types import column_of


def frame_of(table: Any) -> Any:
    """Return an Arrow table as a DataFrame.

    Inside nested values, integers beside a null stay integers and times in nanoseconds stay times; pyarrow would convert them
    to floats and integers. Maps are Entries.
    """
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    if not any(map(pa.types.is_nested, table.schema.types)):
        return table.to_pandas()
    table = _convertible(table)
    frame = table.to_pandas(integer_object_nulls=True)
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_integer(field.type) and frame.dtypes.iloc[index].kind == "O":  # floats, as in any other table
            frame.isetitem(index, column.to_pandas())
        elif holds_map(field.type) or _has_times_in_structs(field.type):
            frame.isetitem(index, column_of([with_entries(value, field.type) for value in column.to_pylist()], "other"))
    return frame


def _has_times_in_structs(kind: Any) -> bool:
    return "struct<" in str(kind) and "[ns" in str(kind)  # a field of that name only costs time


def _convertible(table: Any) -> Any:
    """Return *table* without layouts inside nested columns that pyarrow cannot convert: views, fixed-size binary."""
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) and (plain := _plain(field.type)) != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(plain))
    return table


def _plain(kind: Any) -> Any:
    """Return an Arrow type with plain layouts inside."""
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    is_type = pa.types
    if is_type.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type), field.nullable) for field in kind])
    if is_type.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if is_type.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if hasattr(kind, "value_field"):
        is_large = str(kind).startswith("large_list")
        return (pa.large_list if is_large else pa.list_)(_plain(kind.value_type))
    if str(kind) == "string_view":
        return pa.string()
    return pa.binary() if str(kind) == "binary_view" or is_type.is_fixed_size_binary(kind) else kind
