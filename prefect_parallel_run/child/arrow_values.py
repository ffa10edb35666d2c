"""Nested Arrow values as Python values and back, so that rows of a table can be returned unchanged, and facts about columns.

A schema carries as metadata facts about the values of its columns, beyond their types: they decide with which types the columns
of all mini-batches can be unified, from their schemas alone.
"""

import json
from copy import deepcopy
from typing import Any, Callable, Dict, Iterable, Iterator, List, Set, Tuple

import pyarrow as pa

KEY = b"prefect_parallel_run.facts"  #: key in the schema's metadata; JSON, ``[[path of the column, fact], ...]``
NEGATIVE = "negative"  #: contains a negative integer
INEXACT = "inexact"  #: contains an integer beyond 2**53, which a float may not represent
HUGE = "huge"  #: contains an integer beyond 2**63 - 1
#: Units of time, and how many of each are a second. The name of a unit as a fact: contains a time beyond its range.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST = 2**63 - 1
_EXACT = 2**53
#: Path of values: the column, then fields of structs, ``item`` of lists, ``key`` and ``value`` of maps.
Path = Tuple[str, ...]
Fact = Tuple[Path, str]  #: path of the values, and the fact


def frame_of(table: Any) -> Any:
    """Return an Arrow table as a DataFrame.

    Inside nested values, integers beside a null stay integers and times in nanoseconds stay times; pyarrow would convert them
    to floats and integers. Maps are Entries.
    """
    if not any(map(pa.types.is_nested, table.schema.types)):
        return table.to_pandas()
    table = _convertible(table)
    frame = table.to_pandas(integer_object_nulls=True)
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_integer(field.type) and frame.dtypes.iloc[index].kind == "O":  # floats, as in any other table
            frame.isetitem(index, column.to_pandas())
        elif _holds_map(field.type) or _has_times_in_structs(field.type):
            import pandas as pd  # noqa: PLC0415  the flow process plans and publishes without pandas

            frame.isetitem(index, pd.Series([_with_entries(value, field.type) for value in column.to_pylist()], dtype=object))
    return frame


def _has_times_in_structs(kind: Any) -> bool:
    return "struct<" in str(kind) and "[ns" in str(kind)  # a field of that name only costs time


def _convertible(table: Any) -> Any:
    """Return *table* without layouts inside nested columns that pyarrow cannot convert: views, fixed-size binary."""
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) and (plain := _plain(field.type)) != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(plain))
    return table


def _plain(kind: Any) -> Any:
    """Return an Arrow type with plain layouts inside."""
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

    def __deepcopy__(self, memo: Any) -> "Entries":
        return Entries(deepcopy(list(self), memo))


def _holds_map(kind: Any) -> bool:
    """Return whether values of an Arrow type contain maps."""
    return "map<" in str(kind)  # a field of that name only costs time


def _with_entries(value: Any, kind: Any) -> Any:
    """Return a value of an Arrow type, made by pyarrow, with its maps as Entries."""
    if value is None or not _holds_map(kind):
        return value
    if pa.types.is_map(kind):
        return Entries((_with_entries(key, kind.key_type), _with_entries(item, kind.item_type)) for key, item in value)
    if pa.types.is_struct(kind):
        return {field.name: _with_entries(value[field.name], field.type) for field in kind}
    return [_with_entries(item, kind.value_type) for item in value]


def _holds_entries(values: Any) -> bool:
    """Return whether any of *values*, which have one type, is or contains Entries."""
    for value in values:
        if isinstance(value, dict):
            if any(_holds_entries([inner]) for inner in value.values()):
                return True
        elif isinstance(value, list):
            if isinstance(value, Entries) or _holds_entries(value):
                return True
        elif value is not None and not isinstance(value, float):  # NaN stands for None
            return False
    return False


def table_of(frame: Any) -> Any:
    """Return a DataFrame as an Arrow table, also with values whose type pyarrow cannot infer."""
    objects = [name for name, column in frame.items() if column.dtype == object]
    try:
        return _table(frame, [name for name in objects if _holds_entries(frame[name])])
    except OverflowError:  # pyarrow infers int64 for every integer in them
        return _table(frame, objects)


def _table(frame: Any, own: List[str]) -> Any:
    """Return a DataFrame as an Arrow table; the arrays of the columns *own* are built by array_of instead of pyarrow."""
    table = pa.Table.from_pandas(frame.drop(columns=own), preserve_index=False)
    if not own:
        return table
    return pa.table({name: _array_of(list(frame[name])) if name in own else table.column(name) for name in frame.columns})


def _array_of(values: List[Any]) -> Any:
    """Return values as an Arrow array, also those whose type pyarrow cannot infer: Entries, and integers beyond int64."""
    nested = [value for value in values if _is_nested(value)]
    if not nested:
        try:
            return pa.array(values, from_pandas=True)
        except OverflowError:
            return pa.array(values, pa.uint64(), from_pandas=True)
    mask = pa.array([not _is_nested(value) for value in values])
    if isinstance(nested[0], dict):
        names = dict.fromkeys(name for value in nested for name in value)
        inner = [_array_of([value.get(name) if isinstance(value, dict) else None for value in values]) for name in names]
        return pa.StructArray.from_arrays(inner, list(names), mask=mask)
    offsets: List[int] = [0]
    items: List[Any] = []
    for value in values:
        items.extend(value if _is_nested(value) else ())
        offsets.append(len(items))
    ends = pa.array(offsets, pa.int32())
    if isinstance(nested[0], Entries):
        keys, inner_values = _array_of([key for key, _ in items]), _array_of([item for _, item in items])
        return pa.MapArray.from_arrays(ends, keys, inner_values, mask=mask)
    return pa.ListArray.from_arrays(ends, _array_of(items), mask=mask)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or getattr(value, "ndim", 0) == 1


def facts_of(table: Any, check: Callable[[str, Any, Set[str]], None] = lambda *_: None) -> Set[Fact]:
    """Return the facts of a pyarrow.Table; call *check* with column, type and facts of all values that are not nested."""
    facts: Set[Fact] = set()
    for name, column in zip(table.schema.names, table.columns):
        for path, array in (leaf for chunk in column.chunks for leaf in _leaves(chunk, (name,))):
            own = set(_facts(array))
            check(name, array.type, own)
            facts.update((path, fact) for fact in own)
    return facts


def to_metadata(facts: Iterable[Fact]) -> Dict[bytes, bytes]:
    """Return facts as metadata of a schema; equal facts give equal bytes."""
    return {KEY: json.dumps(sorted(facts), separators=(",", ":")).encode()}


def _facts(array: Any) -> Iterator[str]:
    """Yield the facts of an array that is not nested."""
    kind, is_type = array.type, pa.types
    if is_type.is_integer(kind):
        yield from _of_integers(*_range(array))
    elif (is_type.is_timestamp(kind) or is_type.is_duration(kind)) and kind.unit != "ns":
        yield from _of_times(kind.unit, *_range(array.cast(pa.int64())))


def _range(array: Any) -> Tuple[int, int]:
    """Return the least and the greatest integer of an array; 0 and 0 for an empty one."""
    values = (array.drop_null() if array.null_count else array).to_numpy(zero_copy_only=False)
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


def _of_integers(least: int, most: int) -> Iterator[str]:
    if least < 0:
        yield NEGATIVE
    if least < -_EXACT or most > _EXACT:
        yield INEXACT
    if most > _MOST:
        yield HUGE


def _of_times(unit: str, least: int, most: int) -> Iterator[str]:
    size = max(-least, most)
    for finer, parts in _UNITS.items():
        if parts > _UNITS[unit] and size * (parts // _UNITS[unit]) > _MOST:
            yield finer


def _leaves(array: Any, path: Path = ()) -> Iterator[Tuple[Path, Any]]:
    """Yield the arrays of values that are not nested, each with its path; a dictionary array gives its categories."""
    kind, is_type = array.type, pa.types
    if is_type.is_dictionary(kind):
        yield from _leaves(array.dictionary, path)
    elif is_type.is_struct(kind):
        for field, inner in zip(kind, array.flatten()):
            yield from _leaves(inner, (*path, field.name))
    elif is_type.is_map(kind):
        yield from _leaves(array.keys, (*path, "key"))
        yield from _leaves(array.items, (*path, "value"))
    elif hasattr(kind, "value_field"):  # a list of any layout
        yield from _leaves(array.flatten(), (*path, "item"))
    else:
        yield path, array
