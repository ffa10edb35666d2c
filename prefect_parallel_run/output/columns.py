"""The columns of all mini-batches, unified from the schema in front of the rows that each has written."""

from __future__ import annotations

import pyarrow as pa

from prefect_parallel_run.child.column_facts import facts_of, to_metadata
from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.output.column_types import Conflict, Facts, facts_in, unify
from prefect_parallel_run.output.parts import PartRange, Parts

_MOST_KNOWN = 1_000  #: schemas remembered byte by byte


class Columns:
    """The columns of the mini-batches seen so far."""

    def __init__(self) -> None:
        self._headers: set[bytes] = set()  # of schemas that are taken into account; most mini-batches have that of another
        self._types: set[pa.Schema] = set()  # the same without facts
        self._facts: Facts = frozenset()
        self._unified: pa.Schema | None = None
        self._steps: list[tuple[int, pa.Schema]] = []  # the mini-batches that changed it, and their schemas

    @property
    def schema(self) -> pa.Schema:
        """Return the schema that holds the rows of each without loss."""
        return pa.schema([]) if self._unified is None else self._unified.remove_metadata()

    def add(self, found: PartRange, parts: Parts) -> None:
        """Take the schema of a range into account.

        Raises:
            RowsDifferError: Its columns do not fit those of a mini-batch before; names column and mini-batches.
            OutputError: The part does not hold the rows any more.
        """
        header = parts.head(found)
        if header in self._headers:
            return
        schema = _schema(found, header, parts)
        types, facts = schema.remove_metadata(), facts_in(schema)
        if types not in self._types or not facts <= self._facts:
            self._unify(found, schema, parts)
            self._types.add(types)
            self._facts |= facts
        if header:
            if len(self._headers) >= _MOST_KNOWN:
                self._headers.clear()
            self._headers.add(header)

    def _unify(self, found: PartRange, schema: pa.Schema, parts: Parts) -> None:
        unified = unify(schema if self._unified is None else self._unified, schema)
        if isinstance(unified, Conflict):
            parts.read(found)  # raises when the part was altered
            raise self._differs(found.mini_batch, schema, unified)
        if self._unified is None or not unified.equals(self._unified, check_metadata=True):
            self._unified = unified
            self._steps.append((found.mini_batch, schema))

    def _differs(self, mini_batch: int, schema: pa.Schema, conflict: Conflict) -> RowsDifferError:
        name, before, now = conflict
        other = self._steps[0][0]
        for number, earlier in self._steps:  # the first that it does not fit; the first of all when only several together do
            pair = unify(earlier, schema)
            if isinstance(pair, Conflict) and pair.column == name:
                other, before = number, pair.one
                break
        if before is None:
            words = f"mini-batch {mini_batch} has a column {name!r}, which mini-batch {other} lacks"
        elif now is None:
            words = f"mini-batch {mini_batch} lacks the column {name!r}, which mini-batch {other} has"
        else:
            words = f"column {name!r} is {now} in mini-batch {mini_batch} and {before} in mini-batch {other}"
            words += "; no type holds the values of both without loss"
        return RowsDifferError("", words, mini_batch, other=other)


def _schema(found: PartRange, header: bytes, parts: Parts) -> pa.Schema:
    """Return the schema of a range, with the facts of its columns."""
    if not header:  # written by an earlier version, which noted no facts
        table = read_table(found, parts)
        return table.schema.with_metadata(to_metadata(facts_of(table)))
    try:
        return pa.ipc.read_schema(pa.py_buffer(header))
    except (pa.ArrowException, OSError) as error:
        parts.read(found)  # raises when the part was altered
        raise _altered(found, error) from error


def read_table(found: PartRange, parts: Parts) -> pa.Table:
    """Return the rows of a range; raises OutputError when the part does not hold them any more."""
    data = parts.read(found)
    try:
        with pa.ipc.open_stream(data) as stream:
            return stream.read_all()
    except pa.ArrowException as error:
        raise _altered(found, error) from error


def _altered(found: PartRange, error: Exception) -> OutputError:
    reason = f"{found.part.name} does not hold the rows of mini-batch {found.mini_batch} any more: {error}"
    return OutputError(str(found.part), reason)
