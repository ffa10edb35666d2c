"""Sets the types of a table's columns to those of the whole file, independent of the values in this part of it."""

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
