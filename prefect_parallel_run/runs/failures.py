"""Queries what failed in a run from its ledger: by cause, and by mini-batch or item.

Attempts are those at whole mini-batches and those at pieces, which bisection runs separately to isolate failing items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prefect_parallel_run._units import count
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.runs.ledger import Ledger


class FailureCause(NamedTuple):
    """Failed attempts with one cause."""

    fingerprint: str
    outcome: str
    error_type: str
    error: str  #: text of the first attempt's error
    traceback: str  #: the first attempt's
    tries: int
    mini_batches: int
    first_mini_batch: int
    nodes: str  #: comma-separated
    items: int  #: of these mini-batches
    failed_items: int = 0  #: of these, those that failed finally, with this cause
    guilty: tuple[int, int, int] | None = None  #: the first isolated failing items: mini-batch, start and stop in it


class FailedMiniBatch(NamedTuple):
    """A mini-batch that failed finally, or succeeded with fewer rows than items."""

    mini_batch: int
    state: str
    attempts: int  #: for a piece, those at the mini-batch, at the larger pieces that contain it, and at itself
    items: int
    failed: int
    outcome: str
    error_type: str
    error: str
    piece: tuple[int, int] | None = None  #: range of its items (start, stop); None: all items, or it is unknown which


_FAILED_ATTEMPTS = (
    "(SELECT mini_batch, fingerprint, node FROM attempts WHERE outcome <> 'succeeded'"
    " UNION ALL SELECT mini_batch, fingerprint, node FROM pieces WHERE outcome <> 'succeeded')"
)
_FIRST_ATTEMPTS = (  # attempts at whole mini-batches come before those at pieces
    "(SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, MIN(number) FROM"
    " (SELECT *, attempt AS number FROM (SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, attempt"
    "  FROM attempts UNION ALL SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, 1000000000 + start"
    "  FROM pieces) WHERE outcome <> 'succeeded') GROUP BY mini_batch, fingerprint)"
)


def causes(ledger: Ledger, most: int = 50) -> list[FailureCause]:
    """Return failed attempts grouped by cause, the most frequent first."""
    rows = ledger.rows(
        "SELECT fingerprint, outcome, error_type, error, traceback, tries, mini_batches, mini_batch, nodes, items FROM ("
        " SELECT fingerprint, COUNT(*) AS tries, COUNT(DISTINCT mini_batch) AS mini_batches,"
        f"  MIN(mini_batch) AS mini_batch, GROUP_CONCAT(DISTINCT node) AS nodes FROM {_FAILED_ATTEMPTS} GROUP BY fingerprint)"
        f" JOIN (SELECT fingerprint, SUM(items) AS items FROM (SELECT DISTINCT fingerprint, mini_batch FROM {_FAILED_ATTEMPTS})"
        "  JOIN mini_batches USING (mini_batch) GROUP BY fingerprint) USING (fingerprint)"
        f" JOIN {_FIRST_ATTEMPTS} USING (mini_batch, fingerprint)"
        " ORDER BY tries DESC, mini_batch LIMIT ?",
        most,
    )
    groups = [FailureCause(*row) for row in rows]
    failed_items, isolated = _count_failed_items(ledger, groups), _first_isolated(ledger, groups)
    return [
        cause._replace(failed_items=failed_items.get(cause.fingerprint, 0), guilty=isolated.get(cause.fingerprint))
        for cause in groups
    ]


def _count_failed_items(ledger: Ledger, groups: list[FailureCause]) -> dict[str, int]:
    """Return the number of items that failed finally, by cause: in whole mini-batches, and isolated ones."""
    if not groups:
        return {}
    query = (
        "SELECT fingerprint, SUM(items) FROM (SELECT fingerprint, items FROM mini_batches JOIN attempts"
        "  ON attempts.mini_batch = mini_batches.mini_batch AND attempt = attempts"
        "  WHERE state = 'failed' AND mini_batches.mini_batch NOT IN (SELECT mini_batch FROM pieces)"
        " UNION ALL SELECT fingerprint, failed FROM pieces WHERE outcome <> 'succeeded' AND failed > 0)"
        f" WHERE fingerprint IN ({_placeholders(groups)}) GROUP BY fingerprint"
    )
    return dict(ledger.rows(query, *(cause.fingerprint for cause in groups)))


def _first_isolated(ledger: Ledger, groups: list[FailureCause]) -> dict[str, tuple[int, int, int]]:
    """Return the first isolated failing items, by cause."""
    query = (
        "SELECT fingerprint, mini_batch, start, stop FROM pieces WHERE outcome <> 'succeeded' AND failed > 0"
        f" AND fingerprint IN ({_placeholders(groups)}) ORDER BY mini_batch DESC, start DESC"
    )
    rows = ledger.rows(query, *(cause.fingerprint for cause in groups))
    return {
        fingerprint: (mini_batch, start, stop) for fingerprint, mini_batch, start, stop in rows
    }  # descending: the first wins


def _placeholders(groups: list[FailureCause]) -> str:
    return ",".join("?" * len(groups))


def failed_mini_batches(ledger: Ledger) -> Iterator[FailedMiniBatch]:
    """Yield mini-batches that failed finally and those with failed items, in order, with the error of the last attempt.

    A bisected mini-batch yields its failing items instead.
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
    """Return the isolated items of a bisected mini-batch, and its pieces that returned fewer rows than items."""
    pieces = ledger.rows(
        "SELECT start, stop, outcome, error_type, error, failed, (SELECT COUNT(*) FROM pieces AS around"
        "  WHERE around.mini_batch = pieces.mini_batch AND around.start <= pieces.start AND around.stop >= pieces.stop)"
        " FROM pieces WHERE mini_batch=? AND failed > 0 ORDER BY start",
        whole.mini_batch,
    )
    return [
        whole._replace(
            state="succeeded" if outcome == Outcome.SUCCEEDED else "failed",
            attempts=whole.attempts + piece_attempts,
            items=stop - start,
            failed=failed,
            outcome=outcome,
            error_type=error_type,
            error=error,
            piece=(start, stop),
        )
        for start, stop, outcome, error_type, error, failed, piece_attempts in pieces
    ]


def first_failure(ledger: Ledger) -> str:
    """Return as one line the first failed attempt at a mini-batch with failed items, or the first mini-batch with too few rows.

    Without either, return the first failed attempt, or "" if there is none.
    """
    return (
        _first_attempt(ledger, "failed > 0 AND state <> 'waiting'")
        or _first_shortfall(ledger)
        or _first_attempt(ledger, "TRUE")
    )


def _first_attempt(ledger: Ledger, condition: str) -> str:
    query = (
        "SELECT mini_batch, error_type, error FROM attempts JOIN mini_batches USING (mini_batch)"
        f" WHERE outcome <> 'succeeded' AND {condition} ORDER BY started LIMIT 1"
    )
    row = next(ledger.rows(query), None)
    if row is None:
        return ""
    first_line = (row[2] or "").strip().partition("\n")[0]
    return f"mini-batch {row[0]}: {row[1]}: {first_line}"


def _first_shortfall(ledger: Ledger) -> str:
    query = (
        "SELECT mini_batch, rows, items FROM mini_batches WHERE state = 'succeeded' AND failed > 0 ORDER BY mini_batch LIMIT 1"
    )
    row = next(ledger.rows(query), None)
    return "" if row is None else f"mini-batch {row[0]}: {shortfall(row[1], row[2])}"


def shortfall(rows: int, items: int) -> str:
    """Describe a mini-batch that succeeded with fewer rows than items.

    >>> shortfall(1, 121)
    'run() returned 1 row for 121 items'
    """
    return f"run() returned {count(rows, 'row')} for {count(items, 'item')}"
