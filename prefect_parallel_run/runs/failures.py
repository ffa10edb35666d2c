"""What failed in a run, as its ledger has it: by cause, and by mini-batch or item.

Tries are those of whole mini-batches and those of some items of one, which are run apart to find the guilty ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.units import count


class FailureCause(NamedTuple):
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
    failed_items: int = 0  #: of these, those that failed for good, by this cause
    guilty: tuple[int, int, int] | None = None  #: the first that were found guilty: mini-batch, and which of its items


class FailedMiniBatch(NamedTuple):
    """A mini-batch that failed for good, or succeeded with fewer rows than items."""

    mini_batch: int
    state: str
    attempts: int  #: tries; of a piece, also those of its items apart
    items: int
    failed: int
    outcome: str
    error_type: str
    error: str
    piece: tuple[int, int] | None = None  #: only these items of it; None: all, or it is not known which


_FAILED_TRIES = (
    "(SELECT mini_batch, fingerprint, node FROM attempts WHERE outcome <> 'succeeded'"
    " UNION ALL SELECT mini_batch, fingerprint, node FROM pieces WHERE outcome <> 'succeeded')"
)
_FIRST_TRIES = (  # of a mini-batch as a whole before those of its items
    "(SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, MIN(number) FROM"
    " (SELECT *, attempt AS number FROM (SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, attempt"
    "  FROM attempts UNION ALL SELECT mini_batch, fingerprint, outcome, error_type, error, traceback, 1000000000 + start"
    "  FROM pieces) WHERE outcome <> 'succeeded') GROUP BY mini_batch, fingerprint)"
)


def causes(ledger: Ledger, most: int = 50) -> list[FailureCause]:
    """Return failed tries grouped by cause, the most frequent first."""
    rows = ledger.rows(
        "SELECT fingerprint, outcome, error_type, error, traceback, tries, mini_batches, mini_batch, nodes, items FROM ("  # noqa: S608  ours
        " SELECT fingerprint, COUNT(*) AS tries, COUNT(DISTINCT mini_batch) AS mini_batches,"
        f"  MIN(mini_batch) AS mini_batch, GROUP_CONCAT(DISTINCT node) AS nodes FROM {_FAILED_TRIES} GROUP BY fingerprint)"
        f" JOIN (SELECT fingerprint, SUM(items) AS items FROM (SELECT DISTINCT fingerprint, mini_batch FROM {_FAILED_TRIES})"
        "  JOIN mini_batches USING (mini_batch) GROUP BY fingerprint) USING (fingerprint)"
        f" JOIN {_FIRST_TRIES} USING (mini_batch, fingerprint)"
        " ORDER BY tries DESC, mini_batch LIMIT ?",
        most,
    )
    found = [FailureCause(*row) for row in rows]
    for_good, guilty = _for_good(ledger, found), _guilty(ledger, found)
    return [
        cause._replace(failed_items=for_good.get(cause.fingerprint, 0), guilty=guilty.get(cause.fingerprint)) for cause in found
    ]


def _for_good(ledger: Ledger, found: list[FailureCause]) -> dict[str, int]:
    """Return the items that failed for good, by cause: of whole mini-batches, and those that were found guilty."""
    if not found:
        return {}
    query = (
        "SELECT fingerprint, SUM(items) FROM (SELECT fingerprint, items FROM mini_batches JOIN attempts"  # noqa: S608  ours
        "  ON attempts.mini_batch = mini_batches.mini_batch AND attempt = attempts"
        "  WHERE state = 'failed' AND mini_batches.mini_batch NOT IN (SELECT mini_batch FROM pieces)"
        " UNION ALL SELECT fingerprint, failed FROM pieces WHERE outcome <> 'succeeded' AND failed > 0)"
        f" WHERE fingerprint IN ({_places(found)}) GROUP BY fingerprint"
    )
    return dict(ledger.rows(query, *(cause.fingerprint for cause in found)))


def _guilty(ledger: Ledger, found: list[FailureCause]) -> dict[str, tuple[int, int, int]]:
    """Return the first items that were found guilty, by cause."""
    query = (
        "SELECT fingerprint, mini_batch, start, stop FROM pieces WHERE outcome <> 'succeeded' AND failed > 0"  # noqa: S608  ours
        f" AND fingerprint IN ({_places(found)}) ORDER BY mini_batch DESC, start DESC"
    )
    rows = ledger.rows(query, *(cause.fingerprint for cause in found))
    return {fingerprint: (mini_batch, start, stop) for fingerprint, mini_batch, start, stop in rows}  # the first comes last


def _places(found: list[FailureCause]) -> str:
    return ",".join("?" * len(found))


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
        "SELECT start, stop, outcome, error_type, error, failed, (SELECT COUNT(*) FROM pieces AS around"
        "  WHERE around.mini_batch = pieces.mini_batch AND around.start <= pieces.start AND around.stop >= pieces.stop)"
        " FROM pieces WHERE mini_batch=? AND failed > 0 ORDER BY start",
        whole.mini_batch,
    )
    return [
        whole._replace(
            state="succeeded" if outcome == "succeeded" else "failed",
            attempts=whole.attempts + apart,
            items=stop - start,
            failed=failed,
            outcome=outcome,
            error_type=error_type,
            error=error,
            piece=(start, stop),
        )
        for start, stop, outcome, error_type, error, failed, apart in pieces
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
