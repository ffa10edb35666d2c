"""The columns of all mini-batches as one schema that holds the values of each without loss, or why there is none."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from prefect_parallel_run.child.column_facts import HUGE, INEXACT, KEY, NEGATIVE, Fact, to_metadata
from prefect_parallel_run.child.leaves import Path

_UNITS = ("s", "ms", "us", "ns")
_INTEGER_DIGITS = 20  #: of any integer of 64 bits
_MOST_DIGITS = 76
_MOST_DIGITS_128 = 38
_BITS = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}

Facts = frozenset[Fact]


class Conflict(NamedTuple):
    """Two schemas that cannot be unified."""

    column: str
    one: pa.DataType | None  #: type of the column in the one; None: it has no such column
    other: pa.DataType | None  #: the same of the other


class _TypesDifferError(Exception):
    pass


def unify(one: pa.Schema, other: pa.Schema) -> pa.Schema | Conflict:
    """Return the schema to which the columns of both, whose names are unique, can be cast without loss, in the order of *one*.

    The facts that children give with a schema (child/column_facts.py) are in the result too: of three schemas it does not
    matter which two are unified first.
    """
    facts = facts_in(one) | facts_in(other)
    names, others = set(one.names), set(other.names)
    for name in [*one.names, *other.names]:
        if name not in names or name not in others:
            return Conflict(name, *(schema.field(name).type if name in schema.names else None for schema in (one, other)))
    fields = []
    for left in one:
        right = other.field(left.name)
        metadata = left.metadata if left.metadata == right.metadata else None  # names an extension type that is not known here
        try:
            fields.append(pa.field(left.name, _join(left.type, right.type, (left.name,), facts), metadata=metadata))
        except _TypesDifferError:
            return Conflict(left.name, left.type, right.type)
    return pa.schema(fields, to_metadata(facts))


def facts_in(schema: pa.Schema) -> Facts:
    """Return the facts that a schema carries."""
    return frozenset((tuple(path), fact) for path, fact in json.loads((schema.metadata or {}).get(KEY, b"[]")))


def _join(one: pa.DataType, other: pa.DataType, path: Path, facts: Facts) -> pa.DataType:
    """Return the type for values of both; raises _TypesDifferError."""
    if one == other and not (types.is_nested(one) or types.is_dictionary(one) or _is_view(one)):
        return one
    if types.is_null(one) or types.is_null(other):
        kind = other if types.is_null(one) else one
        return _join(kind, kind, path, facts)
    if types.is_dictionary(one) or types.is_dictionary(other):
        values = _join(_without_dictionary(one), _without_dictionary(other), path, facts)
        is_plain = types.is_null(values) or types.is_nested(values)  # which a Parquet file does not hold as categories
        if is_plain or not (types.is_dictionary(one) and types.is_dictionary(other)):
            return values
        return pa.dictionary(pa.int32(), values, one.ordered and other.ordered)
    for join in (_structs, _maps, _lists, _numbers, _times, _texts):
        found: pa.DataType | None = join(one, other, path, facts)
        if found is not None:
            return found
    if one != other:
        raise _TypesDifferError
    return one


def _is_view(kind: pa.DataType) -> bool:
    """Return whether a type has a layout that pyarrow does not always write to Parquet."""
    return bool(types.is_string_view(kind) or types.is_binary_view(kind))


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _structs(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (types.is_struct(one) and types.is_struct(other)):
        return None
    names = [field.name for field in one]
    names += [field.name for field in other if field.name not in names]
    if len({*names}) < len(names) or any(len({*_names(kind)}) < kind.num_fields for kind in (one, other)):
        return one if one == other else None
    fields = []
    for name in names:
        held = [kind.field(kind.get_field_index(name)) for kind in (one, other) if kind.get_field_index(name) >= 0]
        kind = _join(held[0].type, held[-1].type, (*path, name), facts)
        fields.append(pa.field(name, kind, len(held) == 1 or held[0].nullable or held[1].nullable or types.is_null(kind)))
    return pa.struct(fields)


def _names(kind: Any) -> list[str]:
    return [field.name for field in kind]


def _maps(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (types.is_map(one) and types.is_map(other)):
        return None
    keys = _join(one.key_type, other.key_type, (*path, "key"), facts)
    return pa.map_(keys, _join(one.item_type, other.item_type, (*path, "value"), facts))


def _is_list(kind: pa.DataType) -> bool:
    return hasattr(kind, "value_field") and not types.is_map(kind)


def _lists(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (_is_list(one) and _is_list(other)):
        return None
    item = _join(one.value_type, other.value_type, (*path, "item"), facts)
    if types.is_fixed_size_list(one) and types.is_fixed_size_list(other) and one.list_size == other.list_size:
        return pa.list_(item, one.list_size)
    is_large = any(types.is_large_list(kind) or types.is_large_list_view(kind) for kind in (one, other))
    return pa.large_list(item) if is_large else pa.list_(item)


def _numbers(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:  # noqa: PLR0911  by kind
    both = (one, other)
    if not all(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in both):
        return None
    if any(map(types.is_floating, both)):
        if all(map(types.is_floating, both)):
            return max(both, key=lambda kind: int(kind.bit_width))
        if any(map(types.is_decimal, both)) or (path, INEXACT) in facts:
            raise _TypesDifferError
        return pa.float64()
    if any(map(types.is_decimal, both)):
        return _decimal(one, other)
    if types.is_signed_integer(one) == types.is_signed_integer(other):
        return max(both, key=lambda kind: int(kind.bit_width))
    unsigned = next(kind.bit_width for kind in both if types.is_unsigned_integer(kind))
    signed = next(kind.bit_width for kind in both if types.is_signed_integer(kind))
    if unsigned < 64 or (path, HUGE) not in facts:
        return _BITS[max(signed, min(2 * unsigned, 64))]
    return pa.decimal128(_INTEGER_DIGITS, 0) if (path, NEGATIVE) in facts else pa.uint64()


def _decimal(one: Any, other: Any) -> pa.DataType:
    if one == other:
        return one
    scale = max(kind.scale for kind in (one, other) if types.is_decimal(kind))
    whole = max(kind.precision - kind.scale if types.is_decimal(kind) else _INTEGER_DIGITS for kind in (one, other))
    digits = whole + scale
    if digits > _MOST_DIGITS:
        raise _TypesDifferError
    is_wide = digits > _MOST_DIGITS_128 or any(map(types.is_decimal256, (one, other)))
    return pa.decimal256(digits, scale) if is_wide else pa.decimal128(digits, scale)


def _times(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:
    both = (one, other)
    if all(map(types.is_date, both)):
        return max(both, key=lambda kind: int(kind.bit_width))
    if not any(all(map(test, both)) for test in (types.is_timestamp, types.is_duration, types.is_time)):
        return None
    unit = max((kind.unit for kind in both), key=_UNITS.index)
    if types.is_time(one):
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    if (path, unit) in facts:  # dates that the finer unit cannot hold
        raise _TypesDifferError
    if types.is_duration(one):
        return pa.duration(unit)
    if one.tz != other.tz:
        raise _TypesDifferError
    return pa.timestamp(unit, one.tz)


def _texts(one: Any, other: Any, path: Path, facts: Facts) -> pa.DataType | None:  # noqa: ARG001  like the others
    both = (one, other)
    if all(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) for kind in both):
        return one if one == other and not _is_view(one) else pa.large_string()
    is_binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    if not all(any(test(kind) for test in is_binary) for kind in both):
        return None
    if one == other and not _is_view(one):
        return one
    is_small = all(types.is_binary(kind) or types.is_fixed_size_binary(kind) for kind in both)
    return pa.binary() if is_small else pa.large_binary()


def fit(array: Any, kind: Any) -> Any:  # noqa: PLR0911  one case per layout
    """Return an array with the type that unify() found for it."""
    if array.type.equals(kind):
        return array
    if types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if types.is_dictionary(array.type):
        if types.is_null(kind):  # no category, hence no value
            return pa.nulls(len(array))
        if types.is_dictionary(kind):
            indices, values = array.indices.cast(pa.int32()), fit(array.dictionary, kind.value_type)
            return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
        return fit(array.dictionary.take(array.indices), kind)
    is_null = array.is_null()
    if types.is_struct(kind):
        inner = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
        filled = [
            fit(inner[field.name], field.type) if field.name in inner else pa.nulls(len(array), field.type) for field in kind
        ]
        return pa.StructArray.from_arrays(filled, fields=list(kind), mask=is_null)
    if types.is_map(kind):
        keys, items = fit(array.keys, kind.key_type), fit(array.items, kind.item_type)
        return pa.MapArray.from_arrays(array.offsets, keys, items, type=kind, mask=is_null)
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        values = fit(array.values.slice(array.offset * size, len(array) * size), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=is_null)
    if _is_list(kind):
        is_large = types.is_large_list(kind)
        lengths = pc.fill_null(array.value_lengths().cast(pa.int64()), 0)
        ends = pc.cumulative_sum(lengths).cast(pa.int64() if is_large else pa.int32())
        offsets = pa.concat_arrays([pa.array([0], ends.type), ends])
        made = pa.LargeListArray if is_large else pa.ListArray
        return made.from_arrays(offsets, fit(array.flatten(), kind.value_type), type=kind, mask=is_null)
    return array.cast(kind)
