"""Detects changes to a ledger that bypassed SQL: checksums of its rows, maintained by triggers, and consistency rules.

SQLite pages have no checksums. A damaged disk or another program could silently change a number that decides which rows are
published. Triggers maintain a checksum of every relevant row, and a second copy of the facts about the run. A change by SQL
updates both, also one by an earlier version of this package; a change of bytes does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Rows = Callable[[str], Iterator[tuple[Any, ...]]]

_PRIME = 1_000_003
_FACTORS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_COUNTS = ("mini_batch", "attempts", "items", "succeeded", "failed", "rows", "offset", "header", "length", "crc", "granted")
_OF_PIECE = ("mini_batch", "start", "stop", "succeeded", "failed", "rows", "offset", "header", "length", "crc")


def _checksum(columns: tuple[str, ...], prefix: str = "") -> str:
    """Return an SQL expression whose value changes when one byte of one of these integers changes; NULL if one is NULL."""
    return " + ".join(f"{prefix}{name} % {_PRIME} * {factor}" for name, factor in zip(columns, _FACTORS, strict=False))


def updated_checksum(parameters: Mapping[str, str]) -> str:
    """Return an SQL expression of the checksum of a mini-batch whose columns are set to these *parameters*.

    An UPDATE that sets it too avoids a second one by the trigger, which would cost 4 µs per mini-batch.
    """
    return _checksum(tuple(parameters.get(name, name) for name in _COUNTS))


def _differs(checksum: str, columns: tuple[str, ...], prefix: str = "") -> str:
    """Return an SQL condition: the row does not match *checksum*, or contains text instead of integers."""
    greatest = f"max({', '.join(prefix + name for name in columns)})"  # in SQL every text exceeds every number
    return f"({checksum} IS NOT {_checksum(columns, prefix)} OR ({greatest} < '') IS NOT 1)"


FILL_CHECKSUMS = f"UPDATE main.mini_batches SET checksum = {_checksum(_COUNTS)} WHERE checksum IS NULL AND state <> 'planned'"
_THIS_PIECE = "mini_batch = OLD.mini_batch AND start = OLD.start AND stop = OLD.stop"
_TRIGGERS = {
    "mini_batch_updated": f"AFTER UPDATE OF state, {', '.join(_COUNTS)} ON mini_batches"
    " WHEN NEW.checksum IS OLD.checksum BEGIN"
    f" UPDATE mini_batches SET checksum = {_checksum(_COUNTS)} WHERE mini_batch = NEW.mini_batch; END",
    "piece_inserted": "AFTER INSERT ON pieces BEGIN INSERT OR REPLACE INTO piece_checksums"
    f" VALUES (NEW.mini_batch, NEW.start, NEW.stop, {_checksum(_OF_PIECE, 'NEW.')}); END",
    "piece_deleted": f"AFTER DELETE ON pieces BEGIN DELETE FROM piece_checksums WHERE {_THIS_PIECE}; END",
    "fact_inserted": "AFTER INSERT ON run BEGIN INSERT OR REPLACE INTO run_copy VALUES (NEW.key, NEW.value); END",
    "fact_updated": "AFTER UPDATE ON run BEGIN INSERT OR REPLACE INTO run_copy VALUES (NEW.key, NEW.value); END",
    "fact_deleted": "AFTER DELETE ON run BEGIN DELETE FROM run_copy WHERE key = OLD.key; END",
}
_TABLES = (
    "CREATE TABLE run_copy (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "INSERT INTO run_copy SELECT key, value FROM run",
    (
        "CREATE TABLE piece_checksums (mini_batch INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,"
        " checksum INTEGER, PRIMARY KEY (mini_batch, start, stop)) WITHOUT ROWID"
    ),
    f"INSERT INTO piece_checksums SELECT mini_batch, start, stop, {_checksum(_OF_PIECE)} FROM pieces",
    "ALTER TABLE mini_batches ADD COLUMN checksum INTEGER",  # NULL in rows that an earlier version wrote
)


def protections(rows: Rows) -> Iterator[str]:
    """Yield the statements that protect a ledger; triggers are recreated each time, so that they match this version."""
    if not is_protected(rows):
        yield from _TABLES
    for name, body in _TRIGGERS.items():
        yield f"DROP TRIGGER IF EXISTS {name}"
        yield f"CREATE TRIGGER {name} {body}"


def is_protected(rows: Rows) -> bool:
    """False for a ledger written by an earlier version, until its run is resumed."""
    return any(rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'run_copy'"))


def are_facts_altered(rows: Rows) -> bool:
    """True when the facts about the run differ from their copy."""
    query = (
        "SELECT 1 FROM (SELECT key, value FROM run EXCEPT SELECT key, value FROM run_copy) UNION ALL"
        " SELECT 1 FROM (SELECT key, value FROM run_copy EXCEPT SELECT key, value FROM run)"
    )
    return is_protected(rows) and any(rows(query))


def ledger_problems(rows: Rows) -> Iterator[str]:
    """Yield the problems in a ledger that can be detected without the plan.

    Args:
        rows: Runs a query and yields its rows; raises when the ledger cannot be read.
    """
    broken = [line for (line,) in rows("PRAGMA integrity_check(3)") if line != "ok"]
    yield from broken
    if broken:
        return
    for table, columns in _COLUMNS.items():
        list(rows(f"SELECT {columns} FROM {table} LIMIT 0"))  # raises when one is missing
    if are_facts_altered(rows):
        yield "the facts about the run were altered"
    numbered = "SELECT COUNT(*) = COALESCE(MAX(mini_batch), -1) + 1, COALESCE(MIN(mini_batch), 0) = 0 FROM mini_batches"
    if next(rows(numbered)) != (1, 1):
        yield "its mini-batches are not numbered from 0 without gaps"
    if next(rows("SELECT (SELECT COUNT(*) FROM attempts) <> (SELECT TOTAL(attempts) FROM mini_batches)"))[0]:
        yield "its number of attempts differs from what its mini-batches used"
    yield from _wrong_mini_batches(rows, _RULES | (_CHECKSUMS if is_protected(rows) else {}))
    if is_protected(rows) and (row := next(rows(_WRONG_PIECES), None)) is not None:
        yield f"mini-batches {row[0]} were bisected, and the rows of their pieces were altered"


_COLUMNS = {
    "mini_batches": f"state, part, {', '.join(_COUNTS)}",
    "attempts": "mini_batch, attempt, outcome, node, pid, started, seconds, error_type, error, traceback, fingerprint",
    "pieces": f"{', '.join(_OF_PIECE)}, outcome, part, node, pid, started, seconds, error_type, error, traceback, fingerprint",
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
    "were altered in the ledger": f"state <> 'planned' AND checksum IS NOT NULL AND {_differs('checksum', _COUNTS)}",
}
_WRONG_PIECES = (
    "SELECT pieces.mini_batch FROM pieces LEFT JOIN piece_checksums AS known ON known.mini_batch = pieces.mini_batch"
    " AND known.start = pieces.start AND known.stop = pieces.stop"
    f" WHERE {_differs('known.checksum', _OF_PIECE, 'pieces.')}"
    " UNION ALL SELECT -1 WHERE (SELECT COUNT(*) FROM pieces) <> (SELECT COUNT(*) FROM piece_checksums) LIMIT 1"
)
_SHOWN = 5  #: mini-batches that a problem names


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
