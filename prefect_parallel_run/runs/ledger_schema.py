"""The form of a ledger on disk: its tables, and the checksums that reveal changes that bypassed SQL.

SQLite pages have no checksums. A damaged disk or another program could silently change a number that decides which rows are
published. Triggers maintain a checksum of every relevant row, and a second copy of the metadata of the run. A change by SQL
updates both, also one by an earlier version of this package; a change of bytes does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Rows = Callable[[str], Iterator[tuple[Any, ...]]]  #: runs a query and yields its rows; raises when the ledger cannot be read

VERSION = 0  #: PRAGMA user_version; raised when a new format cannot be read by earlier versions of this package
COMMANDS_TABLE = """
CREATE TABLE IF NOT EXISTS controls (  -- commands that users sent while the run was executing
    id TEXT PRIMARY KEY,
    at REAL,                        -- Unix time, s
    by TEXT,                        -- user@host/process
    what TEXT NOT NULL,             -- JSON, or the first part of an invalid command
    applied_at REAL,                -- Unix time, s, NULL when it was rejected
    answer TEXT NOT NULL
) WITHOUT ROWID
"""
TABLES = f"""
CREATE TABLE mini_batches (
    mini_batch INTEGER PRIMARY KEY,
    state TEXT NOT NULL,            -- planned, waiting (for a retry), isolating (failing items), succeeded, failed
    attempts INTEGER NOT NULL,      -- attempts used
    items INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,     -- items
    failed INTEGER NOT NULL,        -- items
    rows INTEGER NOT NULL,
    part TEXT, offset INTEGER, header INTEGER, length INTEGER, crc INTEGER,  -- range of its rows, once succeeded
    granted INTEGER NOT NULL DEFAULT 0  -- attempts that no longer count: a user allowed new ones
);
CREATE TABLE attempts (
    mini_batch INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    node TEXT, pid INTEGER,
    started REAL,                   -- Unix time, s
    seconds REAL,
    error_type TEXT, error TEXT, traceback TEXT, fingerprint TEXT,
    PRIMARY KEY (mini_batch, attempt)
) WITHOUT ROWID;
CREATE TABLE pieces (               -- of mini-batches that were bisected to isolate failing items
    mini_batch INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL,  -- half-open range of item indices in the mini-batch
    outcome TEXT NOT NULL,
    succeeded INTEGER NOT NULL, failed INTEGER NOT NULL, rows INTEGER NOT NULL,
    part TEXT, offset INTEGER, header INTEGER, length INTEGER, crc INTEGER,
    node TEXT, pid INTEGER, started REAL, seconds REAL,
    error_type TEXT, error TEXT, traceback TEXT, fingerprint TEXT,
    PRIMARY KEY (mini_batch, start, stop)
) WITHOUT ROWID;
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT);
{COMMANDS_TABLE};
"""

_PRIME = 1_000_003
_FACTORS = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
COUNTS = ("mini_batch", "attempts", "items", "succeeded", "failed", "rows", "offset", "header", "length", "crc", "granted")
PIECE_COUNTS = ("mini_batch", "start", "stop", "succeeded", "failed", "rows", "offset", "header", "length", "crc")


def checksum_of(columns: tuple[str, ...], prefix: str = "") -> str:
    """Return an SQL expression whose value changes when one byte of one of these integers changes; NULL if one is NULL."""
    return " + ".join(f"{prefix}{name} % {_PRIME} * {factor}" for name, factor in zip(columns, _FACTORS, strict=False))


def updated_checksum(parameters: Mapping[str, str]) -> str:
    """Return an SQL expression of the checksum of a mini-batch whose columns are set to these *parameters*.

    An UPDATE that sets it too avoids a second one by the trigger, which would cost 4 µs per mini-batch.
    """
    return checksum_of(tuple(parameters.get(name, name) for name in COUNTS))


FILL_CHECKSUMS = f"UPDATE main.mini_batches SET checksum = {checksum_of(COUNTS)} WHERE checksum IS NULL AND state <> 'planned'"
_THIS_PIECE = "mini_batch = OLD.mini_batch AND start = OLD.start AND stop = OLD.stop"
_TRIGGERS = {
    "mini_batch_updated": f"AFTER UPDATE OF state, {', '.join(COUNTS)} ON mini_batches"
    " WHEN NEW.checksum IS OLD.checksum BEGIN"
    f" UPDATE mini_batches SET checksum = {checksum_of(COUNTS)} WHERE mini_batch = NEW.mini_batch; END",
    "piece_inserted": "AFTER INSERT ON pieces BEGIN INSERT OR REPLACE INTO piece_checksums"
    f" VALUES (NEW.mini_batch, NEW.start, NEW.stop, {checksum_of(PIECE_COUNTS, 'NEW.')}); END",
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
    f"INSERT INTO piece_checksums SELECT mini_batch, start, stop, {checksum_of(PIECE_COUNTS)} FROM pieces",
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


def is_metadata_altered(rows: Rows) -> bool:
    """True when the metadata of the run differs from its copy."""
    query = (
        "SELECT 1 FROM (SELECT key, value FROM run EXCEPT SELECT key, value FROM run_copy) UNION ALL"
        " SELECT 1 FROM (SELECT key, value FROM run_copy EXCEPT SELECT key, value FROM run)"
    )
    return is_protected(rows) and any(rows(query))
