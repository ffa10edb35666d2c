"""The unified columns of all mini-batches, from the schema that precedes the rows of each."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa

from prefect_parallel_run.child.arrow_values import facts_of, to_metadata
from prefect_parallel_run.errors import OutputError, RowsDifferError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.output.column_types import Conflict, Facts, facts_in, unify
from prefect_parallel_run.output.failed_items import source_location
from prefect_parallel_run.output.parts import Parts, StoredRows
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_MAX_HEADERS = 1_000  #: serialized schemas to remember


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
