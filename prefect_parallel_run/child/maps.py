"""Converts Arrow maps to Python values and back, so that rows of a table can be returned unchanged."""

from typing import Any, List


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
