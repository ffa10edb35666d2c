"""Infers the column types of a table once for a whole file, so that all its mini-batches have the same types. Pure.

They are the types that pandas infers when it reads the file in one piece: a column of integers with a missing value contains
floats in all mini-batches, and a column with one word in it contains strings in all of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from prefect_parallel_run.child.json_lines import record

_LARGE = 2**63
_HALVES = rb"\ud"  #: start of an escaped surrogate; Arrow does not check that its other half follows
INT, FLOAT, BOOL, BOOL_OR_NULL, TEXT, NULL, OTHER = "int", "float", "bool", "bool_or_null", "text", "null", "other"
UINT = "uint"  #: nonnegative integers, some of them too large for a signed 64-bit integer
NEGATIVE = "negative"  #: signed 64-bit integers, some of them negative; only of a part: the column's type is INT


def kinds_in_frame(frame: pd.DataFrame) -> list[set[str]]:
    """Return the kinds that pandas inferred for each column of one part of a delimited file."""
    return [_kinds(frame.iloc[:, index]) for index in range(frame.shape[1])]


def _kinds(column: pd.Series) -> set[str]:
    if column.isna().all():
        return {NULL}
    if pd.api.types.is_bool_dtype(column.dtype):
        return {BOOL}
    if column.dtype == "uint64":
        return {UINT}
    if column.dtype == "int64":
        return {NEGATIVE if (column < 0).any() else INT}
    if pd.api.types.is_float_dtype(column.dtype):
        return {FLOAT}
    are_booleans = column.dtype == object and all(isinstance(value, bool) for value in column.dropna())
    return {BOOL_OR_NULL if are_booleans else TEXT}  # integers beyond 64 bits too: only a string keeps every digit


def kinds_in_lines(data: bytes) -> tuple[int, dict[str, set[str]]]:
    """Return the number of records in JSON lines, and the kinds in each column; skips broken records."""
    try:
        data.decode()
        table = None if _HALVES in data.lower() else pa_json.read_json(io.BytesIO(data))
    except (UnicodeDecodeError, pa.ArrowException):  # a broken line, two types in a column, a repeated key
        table = None
    if table is None or any(map(_has_large, table.columns)):
        rows = list(_objects(data))
        return len(rows), _kinds_in_rows(rows)
    return len(table), _kinds_in_table(table)


def _has_large(column: pa.ChunkedArray) -> bool:
    """True when a float may be an integer of more than 64 bits, for which Arrow has no other type."""
    return pa.types.is_floating(column.type) and bool(pc.any(pc.greater_equal(pc.abs(column), float(_LARGE))).as_py())


def _objects(data: bytes) -> Iterator[dict[str, object]]:
    for line in data.split(b"\n"):
        try:
            yield record(line)
        except ValueError:  # a blank line, or a broken record: the mini-batch that reads it fails
            continue


def _kinds_in_table(table: pa.Table) -> dict[str, set[str]]:
    """Return the kinds that Arrow inferred for each column; a null is a kind of its own."""
    by_column: dict[str, set[str]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kinds = {_json_kind(column.type)} if column.null_count < len(column) else set()
        by_column[name] = kinds | ({NULL} if column.null_count else set())
    return by_column


def _json_kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return INT
    if pa.types.is_floating(kind):
        return FLOAT
    if pa.types.is_boolean(kind):
        return BOOL
    return OTHER if pa.types.is_nested(kind) else TEXT


def _kinds_in_rows(rows: Iterable[Mapping[str, object]]) -> dict[str, set[str]]:
    """Return the kinds in each column of objects that Python has parsed."""
    by_column: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    total = 0
    for row in rows:
        total += 1
        for name, value in row.items():
            by_column.setdefault(name, set()).add(_kind_of(value))
            counts[name] = counts.get(name, 0) + 1
    return {name: kinds | ({NULL} if counts[name] < total else set()) for name, kinds in by_column.items()}


def _kind_of(value: object) -> str:
    """Return the kind of a value that Python has parsed; an integer of more than 64 bits remains a Python object."""
    if type(value) is int and not -_LARGE <= value < _LARGE:
        return OTHER
    names = {int: INT, float: FLOAT, bool: BOOL, str: TEXT, type(None): NULL}
    return names.get(type(value), OTHER)


def together_in_json(kinds: Iterable[str]) -> str:
    """Return the type of a JSON column with all these *kinds*: values of several kinds are not converted.

    >>> together_in_json(["int", "text"]), together_in_json(["int", "bool"]), together_in_json(["int", "float", "null"])
    ('other', 'other', 'float')
    """
    distinct = set(kinds)
    families = [distinct & {INT, FLOAT}, distinct & {BOOL, BOOL_OR_NULL}, distinct & {TEXT}]
    return OTHER if sum(map(bool, families)) > 1 else together(distinct)


def comparable_kind(kinds: Iterable[str]) -> str:
    """Return the type of a JSON column for the comparison of files: NULL for a column without values."""
    distinct = set(kinds)
    return NULL if distinct <= {NULL} else together_in_json(distinct)


def together(kinds: Iterable[str]) -> str:
    """Return the type of a column that contains all *kinds*.

    >>> together(["int", "int"]), together(["int", "null"]), together(["int", "text"]), together(["bool", "null"])
    ('int', 'float', 'text', 'bool_or_null')
    >>> together(["int", "uint"]), together(["negative", "uint"]), together(["null", "uint"]), together(["float", "uint"])
    ('uint', 'text', 'text', 'float')
    """
    distinct = set(kinds)
    if UINT in distinct and FLOAT not in distinct and distinct & {NEGATIVE, NULL}:
        distinct.add(TEXT)  # no integer type fits; pandas returns strings, which keep every digit
    if NEGATIVE in distinct:
        distinct = distinct - {NEGATIVE} | {INT}
    if OTHER in distinct:
        return OTHER
    numbers, booleans = distinct & {INT, UINT, FLOAT}, distinct & {BOOL, BOOL_OR_NULL}
    if TEXT in distinct or (numbers and booleans):
        return TEXT
    if booleans:
        return BOOL if distinct == {BOOL} else BOOL_OR_NULL
    if UINT in distinct and distinct <= {INT, UINT}:
        return UINT
    return INT if distinct == {INT} else FLOAT


def is_number(text: str) -> bool:
    """True when *text* has the form of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
