"""The unified columns of all mini-batches: from the schema that precedes the rows of each, without loss of a value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from prefect_parallel_run.child.arrow_values import HUGE, INEXACT, KEY, NEGATIVE, Fact, Path, facts_of, to_metadata
from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.output.failed_items import source_location
from prefect_parallel_run.output.parts import Parts, StoredRows
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_MAX_HEADERS = 1_000  #: serialized schemas to remember
_UNITS = ("s", "ms", "us", "ns")
_INTEGER_DIGITS = 20  #: of any 64-bit integer
_MAX_DIGITS = 76
_MAX_DIGITS_128 = 38
_BITS = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
Facts = frozenset[Fact]


class Columns:
    """The columns of the mini-batches seen so far."""

    def __init__(self) -> None:
        self._headers: set[bytes] = set()  # of included schemas; most mini-batches share one
        self._types: set[pa.Schema] = set()  # included schemas without facts
        self._facts: Facts = frozenset()
        self._unified: pa.Schema | None = None
        self._steps: list[tuple[int, pa.Schema]] = []  # mini-batches that changed the unified schema, with their schemas

    @property
    def schema(self) -> pa.Schema:
        """Return the schema that holds the rows of all mini-batches without loss."""
        return pa.schema([]) if self._unified is None else self._unified.remove_metadata()

    def add(self, place: StoredRows, parts: Parts) -> None:
        """Include the schema of a range.

        Raises:
            RowsDifferError: Its columns differ from those of an earlier mini-batch; names column and mini-batches.
            OutputError: The part no longer holds the rows.
        """
        header = parts.head(place)
        if header in self._headers:
            return
        schema = _schema(place, header, parts)
        types, facts = schema.remove_metadata(), facts_in(schema)
        if types not in self._types or not facts <= self._facts:
            self._unify(place, schema, parts)
            self._types.add(types)
            self._facts |= facts
        if header:
            if len(self._headers) >= _MAX_HEADERS:
                self._headers.clear()
            self._headers.add(header)

    def _unify(self, place: StoredRows, schema: pa.Schema, parts: Parts) -> None:
        unified = unify(schema if self._unified is None else self._unified, schema)
        if isinstance(unified, Conflict):
            parts.read(place)  # raises when the part was altered
            raise self._differs(place.mini_batch, schema, unified)
        if self._unified is None or not unified.equals(self._unified, check_metadata=True):
            self._unified = unified
            self._steps.append((place.mini_batch, schema))

    def _differs(self, mini_batch: int, schema: pa.Schema, conflict: Conflict) -> RowsDifferError:
        name, before, now = conflict
        other = self._steps[0][0]
        for number, earlier in self._steps:  # the first conflicting one; the first of all if only a combination conflicts
            pair = unify(earlier, schema)
            if isinstance(pair, Conflict) and pair.column == name:
                other, before = number, pair.first
                break
        if before is None:
            reason = f"mini-batch {mini_batch} has a column {name!r}, which mini-batch {other} lacks"
        elif now is None:
            reason = f"mini-batch {mini_batch} lacks the column {name!r}, which mini-batch {other} has"
        else:
            reason = f"column {name!r} is {now} in mini-batch {mini_batch} and {before} in mini-batch {other}"
            reason += "; no type holds the values of both without loss"
        return RowsDifferError("", reason, mini_batch, other=other)


class ColumnChecker:
    """Checks during a run that the rows of every succeeded mini-batch fit into one file, including those of earlier executions.

    Unreadable rows (a network drive may show them late) are left to the reduction, which reads all rows.

    Args:
        directory: Run directory.
        plan: Plan of the run.
        ledger: Ledger of the run.
        result: The result file.

    Raises:
        RowsDifferError: The columns of the rows in the ledger differ.
    """

    def __init__(self, directory: RunDirectory, plan: PlanReader, ledger: Ledger, result: str) -> None:
        self._folder, self._plan, self._result = directory.parts, plan, result
        self._columns = Columns()
        self._check(ledger.places())

    def check(self, receipts: Iterable[Receipt]) -> None:
        """Check committed receipts.

        Raises:
            RowsDifferError: The columns of a receipt differ from the earlier ones; names column, mini-batches and files.
        """
        self._check(receipt for receipt in receipts if receipt.part)

    def _check(self, rows: Iterable[StoredRows]) -> None:
        with Parts(self._folder) as parts:
            for place in rows:
                try:
                    if place.rows:
                        self._columns.add(place, parts)
                except RowsDifferError as error:
                    raise add_files(error, self._plan, self._result) from None
                except (OutputError, OSError):
                    continue


def add_files(error: RowsDifferError, plan: PlanReader, result: str) -> RowsDifferError:
    """Return the error with the result file and the input files of both mini-batches."""
    files, other_files = (_files(plan, number) for number in (error.mini_batch, error.other))
    return RowsDifferError(result, error.reason, error.mini_batch, files, error.other, other_files)


def _files(plan: PlanReader, mini_batch: int | None) -> tuple[str, ...]:
    """Return the input files of a mini-batch."""
    if mini_batch is None:
        return ()
    location = source_location(json.loads(plan.works(mini_batch, mini_batch + 1)[0]))
    return tuple(location["paths"] if "paths" in location else [location["path"]])


def _schema(place: StoredRows, header: bytes, parts: Parts) -> pa.Schema:
    """Return the schema of a range with its column facts."""
    if not header:  # written by an earlier version without column facts
        table = read_table(place, parts)
        return table.schema.with_metadata(to_metadata(facts_of(table)))
    try:
        return pa.ipc.read_schema(pa.py_buffer(header))
    except (pa.ArrowException, OSError) as error:
        parts.read(place)  # raises when the part was altered
        raise _altered(place, parts, error) from error


def read_table(place: StoredRows, parts: Parts) -> pa.Table:
    """Return the rows of a range; raises OutputError if the part no longer holds them."""
    data = parts.read(place)
    try:
        with pa.ipc.open_stream(data) as stream:
            return stream.read_all()
    except pa.ArrowException as error:
        raise _altered(place, parts, error) from error


def _altered(place: StoredRows, parts: Parts, error: Exception) -> OutputError:
    reason = f"{place.part} no longer holds the rows of mini-batch {place.mini_batch}: {error}"
    return OutputError(parts.path(place), reason)


class Conflict(NamedTuple):
    """Two schemas that cannot be unified."""

    column: str
    first: pa.DataType | None  #: type in the first schema; None if it lacks the column
    second: pa.DataType | None  #: type in the second schema; None if it lacks the column


class _TypesDifferError(Exception):
    pass


def unify(first: pa.Schema, second: pa.Schema) -> pa.Schema | Conflict:
    """Return a schema that holds the columns of both without loss, in the order of *first*; names are unique.

    The result includes the column facts of both schemas (child/arrow_values.py), so that unification is associative.
    """
    facts = facts_in(first) | facts_in(second)
    names, others = set(first.names), set(second.names)
    for name in [*first.names, *second.names]:
        if name not in names or name not in others:
            return Conflict(name, *(schema.field(name).type if name in schema.names else None for schema in (first, second)))
    fields = []
    for left in first:
        right = second.field(left.name)
        metadata = left.metadata if left.metadata == right.metadata else None  # may name an unregistered extension type
        try:
            fields.append(pa.field(left.name, _join(left.type, right.type, (left.name,), facts), metadata=metadata))
        except _TypesDifferError:
            return Conflict(left.name, left.type, right.type)
    return pa.schema(fields, to_metadata(facts))


def facts_in(schema: pa.Schema) -> Facts:
    """Return the column facts in the metadata of a schema."""
    return frozenset((tuple(path), fact) for path, fact in json.loads((schema.metadata or {}).get(KEY, b"[]")))


def _join(first: pa.DataType, second: pa.DataType, path: Path, facts: Facts) -> pa.DataType:
    """Return a type that holds the values of both; raises _TypesDifferError."""
    if first == second and not (types.is_nested(first) or types.is_dictionary(first) or _is_view(first)):
        return first
    if types.is_null(first) or types.is_null(second):
        kind = second if types.is_null(first) else first
        return _join(kind, kind, path, facts)
    if types.is_dictionary(first) or types.is_dictionary(second):
        values = _join(_without_dictionary(first), _without_dictionary(second), path, facts)
        is_plain = types.is_null(values) or types.is_nested(values)  # Parquet cannot store these as categories
        if is_plain or not (types.is_dictionary(first) and types.is_dictionary(second)):
            return values
        return pa.dictionary(pa.int32(), values, first.ordered and second.ordered)
    for join in (_structs, _maps, _lists, _numbers, _times, _strings):
        joined: pa.DataType | None = join(first, second, path, facts)
        if joined is not None:
            return joined
    if first != second:
        raise _TypesDifferError
    return first


def _is_view(kind: pa.DataType) -> bool:
    """Return whether *kind* is a view type, which pyarrow cannot always write to Parquet."""
    return bool(types.is_string_view(kind) or types.is_binary_view(kind))


def _without_dictionary(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _structs(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (types.is_struct(first) and types.is_struct(second)):
        return None
    names = [field.name for field in first]
    names += [field.name for field in second if field.name not in names]
    if len({*names}) < len(names) or any(len({*_names(kind)}) < kind.num_fields for kind in (first, second)):
        return first if first == second else None
    fields = []
    for name in names:
        matches = [kind.field(kind.get_field_index(name)) for kind in (first, second) if kind.get_field_index(name) >= 0]
        kind = _join(matches[0].type, matches[-1].type, (*path, name), facts)
        fields.append(
            pa.field(name, kind, len(matches) == 1 or matches[0].nullable or matches[1].nullable or types.is_null(kind))
        )
    return pa.struct(fields)


def _names(kind: Any) -> list[str]:
    return [field.name for field in kind]


def _maps(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (types.is_map(first) and types.is_map(second)):
        return None
    keys = _join(first.key_type, second.key_type, (*path, "key"), facts)
    return pa.map_(keys, _join(first.item_type, second.item_type, (*path, "value"), facts))


def _is_list(kind: pa.DataType) -> bool:
    return hasattr(kind, "value_field") and not types.is_map(kind)


def _lists(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:
    if not (_is_list(first) and _is_list(second)):
        return None
    item = _join(first.value_type, second.value_type, (*path, "item"), facts)
    if types.is_fixed_size_list(first) and types.is_fixed_size_list(second) and first.list_size == second.list_size:
        return pa.list_(item, first.list_size)
    is_large = any(types.is_large_list(kind) or types.is_large_list_view(kind) for kind in (first, second))
    return pa.large_list(item) if is_large else pa.list_(item)


def _numbers(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:  # noqa: PLR0911  one case per kind
    both = (first, second)
    if not all(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) for kind in both):
        return None
    if any(map(types.is_floating, both)):
        if all(map(types.is_floating, both)):
            return max(both, key=lambda kind: int(kind.bit_width))
        if any(map(types.is_decimal, both)) or (path, INEXACT) in facts:
            raise _TypesDifferError
        return pa.float64()
    if any(map(types.is_decimal, both)):
        return _decimal(first, second)
    if types.is_signed_integer(first) == types.is_signed_integer(second):
        return max(both, key=lambda kind: int(kind.bit_width))
    unsigned = next(kind.bit_width for kind in both if types.is_unsigned_integer(kind))
    signed = next(kind.bit_width for kind in both if types.is_signed_integer(kind))
    if unsigned < 64 or (path, HUGE) not in facts:
        return _BITS[max(signed, min(2 * unsigned, 64))]
    return pa.decimal128(_INTEGER_DIGITS, 0) if (path, NEGATIVE) in facts else pa.uint64()


def _decimal(first: Any, second: Any) -> pa.DataType:
    if first == second:
        return first
    scale = max(kind.scale for kind in (first, second) if types.is_decimal(kind))
    whole = max(kind.precision - kind.scale if types.is_decimal(kind) else _INTEGER_DIGITS for kind in (first, second))
    digits = whole + scale
    if digits > _MAX_DIGITS:
        raise _TypesDifferError
    is_wide = digits > _MAX_DIGITS_128 or any(map(types.is_decimal256, (first, second)))
    return pa.decimal256(digits, scale) if is_wide else pa.decimal128(digits, scale)


def _times(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:
    both = (first, second)
    if all(map(types.is_date, both)):
        return max(both, key=lambda kind: int(kind.bit_width))
    if not any(all(map(test, both)) for test in (types.is_timestamp, types.is_duration, types.is_time)):
        return None
    unit = max((kind.unit for kind in both), key=_UNITS.index)
    if types.is_time(first):
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    if (path, unit) in facts:  # values that the finer unit cannot hold
        raise _TypesDifferError
    if types.is_duration(first):
        return pa.duration(unit)
    if first.tz != second.tz:
        raise _TypesDifferError
    return pa.timestamp(unit, first.tz)


def _strings(first: Any, second: Any, path: Path, facts: Facts) -> pa.DataType | None:  # noqa: ARG001  same signature as the other kinds
    both = (first, second)
    if all(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) for kind in both):
        return first if first == second and not _is_view(first) else pa.large_string()
    is_binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    if not all(any(test(kind) for test in is_binary) for kind in both):
        return None
    if first == second and not _is_view(first):
        return first
    is_small = all(types.is_binary(kind) or types.is_fixed_size_binary(kind) for kind in both)
    return pa.binary() if is_small else pa.large_binary()


def fit(array: Any, kind: Any) -> Any:  # noqa: PLR0911  one case per layout
    """Cast *array* to *kind*, a type from unify()."""
    if array.type.equals(kind):
        return array
    if types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if types.is_dictionary(array.type):
        if types.is_null(kind):  # no categories, so all values are null
            return pa.nulls(len(array))
        if types.is_dictionary(kind):
            indices, values = array.indices.cast(pa.int32()), fit(array.dictionary, kind.value_type)
            return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
        return fit(array.dictionary.take(array.indices), kind)
    is_null = array.is_null()
    if types.is_struct(kind):
        inner = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
        children = [
            fit(inner[field.name], field.type) if field.name in inner else pa.nulls(len(array), field.type) for field in kind
        ]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=is_null)
    if types.is_map(kind):
        keys, items = fit(array.keys, kind.key_type), fit(array.items, kind.item_type)
        return pa.MapArray.from_arrays(array.offsets, keys, items, type=kind, mask=is_null)
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        values = fit(array.values.slice(array.offset * size, len(array) * size), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=is_null)
    if _is_list(kind):
        is_large = types.is_large_list(kind)
        ends = np.cumsum(pc.fill_null(array.value_lengths(), 0).to_numpy(), dtype=np.int64)
        # By numpy: an array that pyarrow 21 has computed may have a bitmap of nulls, which it does not accept in offsets.
        offsets = pa.array(np.insert(ends, 0, 0), pa.int64() if is_large else pa.int32())
        list_class = pa.LargeListArray if is_large else pa.ListArray
        return list_class.from_arrays(offsets, fit(array.flatten(), kind.value_type), type=kind, mask=is_null)
    return array.cast(kind)
