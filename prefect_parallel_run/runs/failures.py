"""What failed in a run, as its ledger has it: by cause, and by mini-batch or item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.units import count


class Cause(NamedTuple):
    """Failures that have one cause."""

    fingerprint: str
    outcome: str
    error_type: str
    error: str  #: of the first
    traceback: str  #: of the first
    tries: int
    mini_batches: int
    first_mini_batch: int
    nodes: str  #: comma-separated
    items: int  #: of these mini-batches


class FailedMiniBatch(NamedTuple):
    """A mini-batch that failed for good, or succeeded with fewer rows than items."""

    mini_batch: int
    state: str
    attempts: int
    items: int
    failed: int
    outcome: str
    error_type: str
    error: str
    piece: tuple[int, int] | None = None  #: only these items of it; None: all, or it is not known which


def causes(ledger: Ledger, most: int = 50) -> list[Cause]:
    """Return failed tries grouped by cause, the most frequent first."""
    rows = ledger.rows(
        "SELECT fingerprint, outcome, error_type, error, traceback, tries, mini_batches, mini_batch, nodes, items FROM ("
        " SELECT fingerprint, COUNT(*) AS tries, COUNT(DISTINCT mini_batch) AS mini_batches,"
        "  MIN(mini_batch) AS mini_batch, GROUP_CONCAT(DISTINCT node) AS nodes"
        "  FROM attempts WHERE outcome <> 'succeeded' GROUP BY fingerprint)"
        " JOIN (SELECT fingerprint, SUM(items) AS items FROM (SELECT DISTINCT fingerprint, mini_batch FROM attempts"
        "  WHERE outcome <> 'succeeded') JOIN mini_batches USING (mini_batch) GROUP BY fingerprint) USING (fingerprint)"
        " JOIN (SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, MIN(attempt) FROM attempts"
        "  WHERE outcome <> 'succeeded' GROUP BY mini_batch, fingerprint) USING (mini_batch, fingerprint)"
        " ORDER BY tries DESC, mini_batch LIMIT ?",
        most,
    )
    return [Cause(*row) for row in rows]


def failed_mini_batches(ledger: Ledger) -> Iterator[FailedMiniBatch]:
    """Yield mini-batches that failed for good and those with failed items, in order, with their last try's error.

    Of one whose guilty items were looked for, these.
    """
    query = (
        "SELECT mini_batches.mini_batch, state, mini_batches.attempts, items, failed, outcome, error_type, error"
        " FROM mini_batches"
        " JOIN attempts ON attempts.mini_batch = mini_batches.mini_batch AND attempt = mini_batches.attempts"
        " WHERE state = 'failed' OR (state = 'succeeded' AND failed > 0) ORDER BY mini_batches.mini_batch"
    )
    for row in ledger.rows(query):
        failed = FailedMiniBatch(*row)
        pieces = _failed_pieces(ledger, failed)
        yield from pieces or [failed]


def _failed_pieces(ledger: Ledger, whole: FailedMiniBatch) -> list[FailedMiniBatch]:
    """Return the guilty items of a mini-batch that was taken apart, and pieces that returned fewer rows than items."""
    pieces = ledger.rows(
        "SELECT start, stop, outcome, error_type, error, failed FROM pieces WHERE mini_batch=? AND failed > 0 ORDER BY start",
        whole.mini_batch,
    )
    return [
        whole._replace(
            state="succeeded" if outcome == "succeeded" else "failed",
            items=stop - start,
            failed=failed,
            outcome=outcome,
            error_type=error_type,
            error=error,
            piece=(start, stop),
        )
        for start, stop, outcome, error_type, error, failed in pieces
    ]


def first_failure(ledger: Ledger) -> str:
    """Return the first failed try as one line; without any the first mini-batch with too few rows, or an empty text."""
    query = "SELECT mini_batch, error_type, error FROM attempts WHERE outcome <> 'succeeded' ORDER BY started LIMIT 1"
    row = next(ledger.rows(query), None)
    if row is None:
        return _first_shortfall(ledger)
    first_line = (row[2] or "").strip().partition("\n")[0]
    return f"mini-batch {row[0]}: {row[1]}: {first_line}"


def _first_shortfall(ledger: Ledger) -> str:
    query = (
        "SELECT mini_batch, rows, items FROM mini_batches WHERE state = 'succeeded' AND failed > 0 ORDER BY mini_batch LIMIT 1"
    )
    row = next(ledger.rows(query), None)
    return "" if row is None else f"mini-batch {row[0]}: {shortfall(row[1], row[2])}"


def shortfall(rows: int, items: int) -> str:
    """Return the words for a mini-batch that succeeded, and not with all of its items.

    >>> shortfall(1, 121)
    'run() returned 1 row for 121 items'
    """
    return f"run() returned {count(rows, 'row')} for {count(items, 'item')}"
