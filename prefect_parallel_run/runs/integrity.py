"""Checks that the files of a run directory are undamaged, before anything reads results from them. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.errors import RunFileError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.ledger_schema import COUNTS, PIECE_COUNTS, Rows, checksum_of, is_metadata_altered, is_protected
from prefect_parallel_run.runs.run_directory import RunDirectory


def _differs(checksum: str, columns: tuple[str, ...], prefix: str = "") -> str:
    """Return an SQL condition: the row does not match *checksum*, or contains text instead of integers."""
    greatest = f"max({', '.join(prefix + name for name in columns)})"  # in SQL every text exceeds every number
    return f"({checksum} IS NOT {checksum_of(columns, prefix)} OR ({greatest} < '') IS NOT 1)"


_ATTEMPT = "outcome, node, pid, started, seconds, error_type, error, traceback, fingerprint"
_COLUMNS = {
    "mini_batches": f"state, part, {', '.join(COUNTS)}",
    "attempts": f"mini_batch, attempt, {_ATTEMPT}",
    "pieces": f"{', '.join(PIECE_COUNTS)}, part, {_ATTEMPT}",
    "run": "key, value",
}
_IS_UNTOUCHED = "(attempts = 0 AND succeeded = 0 AND failed = 0 AND rows = 0 AND granted = 0)"
_RULES = {
    "have an unknown state": "state NOT IN ('planned', 'waiting', 'isolating', 'succeeded', 'failed')",
    "are planned but have results": f"state = 'planned' AND {_IS_UNTOUCHED} IS NOT 1",
    "lack a row for one of their attempts, or have extra rows": (
        "COUNT(attempt) <> attempts OR TOTAL(attempt) <> attempts * (attempts + 1) / 2"
    ),
    "have a state that contradicts the outcomes of their attempts": (
        "TOTAL(outcome = 'succeeded') <> (state = 'succeeded' AND mini_batch NOT IN (SELECT mini_batch FROM pieces))"
    ),
    "have counts of succeeded and failed items that do not add up to their items": (
        "(state = 'succeeded' AND succeeded + failed <> items) OR (state = 'failed' AND (succeeded <> 0 OR failed <> items))"
    ),
}
_CHECKSUMS = {
    "were altered in the ledger": f"state <> 'planned' AND checksum IS NOT NULL AND {_differs('checksum', COUNTS)}",
}
_WRONG_PIECES = (
    "SELECT pieces.mini_batch FROM pieces LEFT JOIN piece_checksums AS known ON known.mini_batch = pieces.mini_batch"
    " AND known.start = pieces.start AND known.stop = pieces.stop"
    f" WHERE {_differs('known.checksum', PIECE_COUNTS, 'pieces.')}"
    " UNION ALL SELECT -1 WHERE (SELECT COUNT(*) FROM pieces) <> (SELECT COUNT(*) FROM piece_checksums) LIMIT 1"
)
_SHOWN = 5  #: mini-batches that a problem names


def check(directory: RunDirectory, check_cancelled: CheckCancelled = never_cancelled) -> None:
    """Raise RunFileError when run.json, the plan or the ledger is damaged, or they do not match each other.

    Args:
        directory: Run directory that no other process has locked.
        check_cancelled: Called periodically; raises when the run is cancelled.
    """
    check_plan(directory, check_cancelled)
    with Ledger(directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        for reason in ledger_problems(directory, ledger):
            raise RunFileError(str(directory.ledger), reason)


def check_plan(directory: RunDirectory, check_cancelled: CheckCancelled = never_cancelled) -> None:
    """Raise RunFileError when run.json or the plan is damaged, or they do not match."""
    identity = directory.metadata()["identity"]
    if directory.plan.exists():
        reason = Plan(directory.plan).problem(identity, check_cancelled)
    else:
        reason = "does not exist" if "plan_sha256" in identity else ""
    if reason:
        raise RunFileError(str(directory.plan), reason)


def ledger_problems(directory: RunDirectory, ledger: Ledger, *, is_whole: bool = False) -> Iterator[str]:
    """Yield the problems in the ledger of a run.

    Args:
        directory: The run directory; its plan has been checked.
        ledger: The ledger in it.
        is_whole: The ledger must have every mini-batch of the plan; else the last ones, planned just before, may be missing.
    """
    try:
        problems = list(_problems(ledger.rows))
    except RunFileError as error:
        problems = [error.reason]
    yield from problems
    if problems or not directory.plan.exists():
        return
    planned = Plan(directory.plan).all_items()
    in_ledger = (items for (items,) in ledger.rows("SELECT items FROM mini_batches ORDER BY mini_batch"))
    if any(items != next(planned, None) for items in in_ledger) or (is_whole and next(planned, None) is not None):
        yield "its mini-batches differ from those of the plan"


def _problems(rows: Rows) -> Iterator[str]:
    """Yield the problems in a ledger that can be detected without the plan; raises RunFileError when it cannot be read."""
    broken = [line for (line,) in rows("PRAGMA integrity_check(3)") if line != "ok"]
    yield from broken
    if broken:
        return
    for table, columns in _COLUMNS.items():
        list(rows(f"SELECT {columns} FROM {table} LIMIT 0"))  # raises when one is missing
    if is_metadata_altered(rows):
        yield "the facts about the run were altered"
    numbered = "SELECT COUNT(*) = COALESCE(MAX(mini_batch), -1) + 1, COALESCE(MIN(mini_batch), 0) = 0 FROM mini_batches"
    if next(rows(numbered)) != (1, 1):
        yield "its mini-batches are not numbered from 0 without gaps"
    if next(rows("SELECT (SELECT COUNT(*) FROM attempts) <> (SELECT TOTAL(attempts) FROM mini_batches)"))[0]:
        yield "its number of attempts differs from what its mini-batches used"
    yield from _wrong_mini_batches(rows, _RULES | (_CHECKSUMS if is_protected(rows) else {}))
    if is_protected(rows) and (row := next(rows(_WRONG_PIECES), None)) is not None:
        yield f"mini-batches {row[0]} were bisected, and the rows of their pieces were altered"


def _wrong_mini_batches(rows: Rows, rules: dict[str, str]) -> Iterator[str]:
    """Yield which mini-batches violate which rule; checks all rules in one pass."""
    conditions = [f"({condition})" for condition in rules.values()]
    violations = rows(
        f"SELECT mini_batch, {', '.join(conditions)} FROM mini_batches"
        f" LEFT JOIN attempts USING (mini_batch) GROUP BY mini_batch HAVING {' OR '.join(conditions)}"
    )
    by_rule: dict[str, list[str]] = {rule: [] for rule in rules}
    for number, *flags in violations:
        for rule, is_violated in zip(rules, flags, strict=True):
            if is_violated and len(by_rule[rule]) < _SHOWN:
                by_rule[rule].append(str(number))
    for rule, numbers in by_rule.items():
        if numbers:
            yield f"mini-batches {', '.join(numbers)} {rule}"
