"""Sets the types of a table's columns to those of the whole file, independent of the values in this part of it.

Nested Arrow values are converted to Python values and back, so that rows of a table can be returned unchanged.
"""

import json
from typing import Any, Dict, List, Sequence

GIVEN = ("string", "int64", "Int64", "float64", "boolean")  #: pandas types that a dataset may set for its columns
_PANDAS = {"int": "int64", "uint": "uint64", "float": "float64", "bool": "bool", "bool_or_null": "object", "other": "object"}


def of_one_type(frame: Any, kinds: Sequence[str]) -> Any:
    """Return *frame*, read from text, with columns of these kinds.

    Columns that change are cast together: casting thousands of columns one by one would cost more than reading them.
    """
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    changes: Dict[str, List[int]] = {}  # indexes by new type
    for index, (kind, dtype) in enumerate(zip(kinds, frame.dtypes.tolist())):
        if kind in _PANDAS and dtype != _PANDAS[kind]:
            changes.setdefault(_PANDAS[kind], []).append(index)
    if not changes:
        return frame
    changed = [index for indexes in changes.values() for index in indexes]
    kept = sorted(set(range(frame.shape[1])) - set(changed))
    parts = [frame.iloc[:, kept], *(frame.iloc[:, indexes].astype(dtype) for dtype, indexes in changes.items())]
    order = [*kept, *changed]
    cast = pd.concat(parts, axis=1).iloc[:, sorted(range(len(order)), key=order.__getitem__)]
    cast.columns = frame.columns
    return cast


def column_of(values: List[Any], kind: str) -> Any:
    """Return Python values as a column of this kind, without inference: every mini-batch gets the same type."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    return pd.Series(values, dtype=pd.Series([""]).dtype if kind == "text" else _PANDAS[kind])


def with_null_types(frame: Any, indexes: Sequence[int]) -> Any:
    """Return *frame*, made by Arrow, with the types that a null causes in these columns: the file has one somewhere."""
    for index in indexes:
        column = frame.iloc[:, index]
        if column.dtype.kind in "iu":
            frame.isetitem(index, column.astype("float64"))
        elif column.dtype.kind == "b":
            frame.isetitem(index, column.astype(object))
    return frame


def extension_types(schema: Any) -> Dict[str, str]:
    """Return the columns that pandas wrote from an extension type (Int64, boolean, string), with that type's name.

    Types that this version of pandas cannot create from Arrow are omitted.
    """
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    types: Dict[str, str] = {}
    for column in _pandas_metadata(schema).get("columns", ()):
        name, type_name = column.get("field_name", column.get("name")), column.get("numpy_type")
        try:
            dtype = pd.api.types.pandas_dtype(type_name)
        except (TypeError, ValueError, NotImplementedError):  # a type of another version or of a library that is not imported
            continue
        if isinstance(dtype, pd.api.extensions.ExtensionDtype) and hasattr(dtype, "__from_arrow__") and name in schema.names:
            types[name] = type_name
    return types


def with_extension_types(table: Any) -> Any:
    """Return *table* with metadata from which Arrow restores only pandas' extension types, not an index."""
    types = extension_types(table.schema)
    columns = [
        {"name": name, "field_name": name, "pandas_type": "", "numpy_type": kind, "metadata": None}
        for name, kind in types.items()
    ]
    pandas = {"index_columns": [], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()} if types else None)


def _pandas_metadata(schema: Any) -> Dict[str, Any]:
    """Return pandas' metadata in a file; an empty dict when it is missing or damaged."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


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


class Entries(list):  # type: ignore[type-arg]  # a subscripted base needs Python 3.9's typing at run time
    """The entries of a map, (key, value) each; the type distinguishes a map from a list of lists."""

    def __reduce__(self) -> Any:
        return list, (list(self),)  # other processes of the script need not know this class


def holds_map(kind: Any) -> bool:
    """Return whether values of an Arrow type contain maps."""
    return "map<" in str(kind)  # a field of that name only costs time


def with_entries(value: Any, kind: Any) -> Any:
    """Return a value of an Arrow type, made by pyarrow, with its maps as Entries."""
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    if value is None or not holds_map(kind):
        return value
    if pa.types.is_map(kind):
        return Entries((with_entries(key, kind.key_type), with_entries(item, kind.item_type)) for key, item in value)
    if pa.types.is_struct(kind):
        return {field.name: with_entries(value[field.name], field.type) for field in kind}
    return [with_entries(item, kind.value_type) for item in value]


def holds_entries(values: Any) -> bool:
    """Return whether any of *values*, which have one type, is or contains Entries."""
    for value in values:
        if isinstance(value, dict):
            if any(holds_entries([inner]) for inner in value.values()):
                return True
        elif isinstance(value, list):
            if isinstance(value, Entries) or holds_entries(value):
                return True
        elif value is not None and not isinstance(value, float):  # NaN stands for None
            return False
    return False


def array_of(values: List[Any]) -> Any:
    """Return values as an Arrow array, also those whose type pyarrow cannot infer: Entries, and integers beyond int64."""
    import pyarrow as pa  # noqa: PLC0415  only tables need it

    nested = [value for value in values if _is_nested(value)]
    if not nested:
        try:
            return pa.array(values, from_pandas=True)
        except OverflowError:
            return pa.array(values, pa.uint64(), from_pandas=True)
    mask = pa.array([not _is_nested(value) for value in values])
    if isinstance(nested[0], dict):
        names = dict.fromkeys(name for value in nested for name in value)
        inner = [array_of([value.get(name) if isinstance(value, dict) else None for value in values]) for name in names]
        return pa.StructArray.from_arrays(inner, list(names), mask=mask)
    offsets: List[int] = [0]
    items: List[Any] = []
    for value in values:
        items.extend(value if _is_nested(value) else ())
        offsets.append(len(items))
    ends = pa.array(offsets, pa.int32())
    if isinstance(nested[0], Entries):
        keys, inner_values = array_of([key for key, _ in items]), array_of([item for _, item in items])
        return pa.MapArray.from_arrays(ends, keys, inner_values, mask=mask)
    return pa.ListArray.from_arrays(ends, array_of(items), mask=mask)


def _is_nested(value: Any) -> bool:
    """Return whether a value is a dict, list, tuple or one-dimensional array."""
    return isinstance(value, (dict, list, tuple)) or getattr(value, "ndim", 0) == 1
