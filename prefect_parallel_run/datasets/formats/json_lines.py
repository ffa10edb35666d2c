"""JSON lines: divided at line ends; columns and their types are those of the whole file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from prefect_parallel_run.child.delimited import Dialect
from prefect_parallel_run.child.json_lines import record
from prefect_parallel_run.datasets.formats import FilePlan, Piece, TablePlanner
from prefect_parallel_run.datasets.schema import BOOL, BOOL_OR_NULL, FLOAT, INT, NULL, OTHER, TEXT, Column, together
from prefect_parallel_run.datasets.text import Records, Storage, all_spans, check_encoding
from prefect_parallel_run.storage.folders import ListedFile

_LARGE = 2**63
_HALVES = rb"\ud"  #: start of an escaped surrogate; Arrow does not check that its other half follows


class JsonLines(TablePlanner):
    """Divides files with one JSON object per line."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*, which is read completely, once."""
        by_column: dict[str, set[str]] = {}
        warnings: dict[str, str] = {}
        storage = Storage(self._dataset.encoding, self._dataset.compression, is_always_utf8=True)
        with storage.records(file.path, Dialect(), lone_returns=False) as parts:
            spans = all_spans(_collect_kinds(check_encoding(parts, "utf-8", warnings), by_column), size)
        kept = {name: by_column[name] for name in self._dataset.selection.kept(list(by_column))}
        types = {name: together_in_json(kinds) for name, kinds in kept.items()}
        work = {**storage.fields(file.path), "columns": list(types), "types": list(types.values())}
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in spans)
        columns = [Column(name, comparable_kind(kinds)) for name, kinds in kept.items()]
        return FilePlan(work, pieces, columns=columns, names=list(by_column) or None, warnings=warnings)


def _collect_kinds(parts: Iterator[Records], by_column: dict[str, set[str]]) -> Iterator[Records]:
    """Yield *parts* and add the kinds in each column to *by_column*, in order of first appearance."""
    is_first = True
    for part in parts:
        records, kinds = kinds_in_lines(part.data)
        if not records:  # a blank line does not count as a record without columns
            yield part
            continue
        for name in {**by_column, **kinds}:
            missing = {NULL} if (name not in by_column and not is_first) or name not in kinds else set()
            by_column[name] = by_column.get(name, set()) | kinds.get(name, set()) | missing
        is_first = False
        yield part


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
