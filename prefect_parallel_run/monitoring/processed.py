"""``processed_mini-batches.csv``: one row per finished attempt at a whole mini-batch, in commit order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.runs.ledger import Ledger

COLUMNS = ("mini_batch", "attempt", "outcome", "node", "pid", "started", "seconds", "error_type")
HEADER = ",".join(COLUMNS) + "\n"
_ROW = "%d,%d,%s,%s,%d,%.6f,%.6f,%s\n"  #: started is Unix time; s
_values_of = attrgetter(*COLUMNS)
_ERROR_TYPE = COLUMNS.index("error_type")
_BLOCK = 1_000  #: rows per string


def rows_of(receipts: Iterable[Receipt]) -> str:
    """Return the rows of *receipts* as one string."""
    return "".join([_ROW % (_values_of(r) if not r.error_type else _quoted(_values_of(r))) for r in receipts])


def rows_in(ledger: Ledger) -> Iterator[str]:
    """Yield the rows of all attempts in the ledger, ordered by mini-batch, many rows per string."""
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), COALESCE(pid, 0), started, seconds, error_type"
        " FROM attempts ORDER BY mini_batch, attempt"
    )
    block: list[str] = []
    for values in ledger.rows(query):
        block.append(_ROW % (_quoted(values) if values[_ERROR_TYPE] else values))
        if len(block) == _BLOCK:
            yield "".join(block)
            block.clear()
    yield "".join(block)


def _quoted(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return *values* with a quoted error type: its name comes from the script and may contain anything."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([values[_ERROR_TYPE]])
    return (*values[:_ERROR_TYPE], buffer.getvalue())
