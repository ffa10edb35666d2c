"""The ledger of a run: one row per mini-batch and one per attempt, in SQLite. Only results in the ledger are committed.

The rows of a lease are written in one transaction, after its part files were synced. A succeeded mini-batch has the range of
its rows (part, offset, length): the reduction publishes exactly these ranges.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.child.failure import storable
from prefect_parallel_run.errors import OutputError, RunFileError
from prefect_parallel_run.models import NOT_ISOLATED, BisectionState, Outcome, PendingWork, Receipt, Tally
from prefect_parallel_run.runs.ledger_schema import (
    COMMANDS_TABLE,
    FILL_CHECKSUMS,
    TABLES,
    VERSION,
    is_metadata_altered,
    protections,
    updated_checksum,
)

_PLANNED = (
    "INSERT INTO mini_batches (mini_batch, state, attempts, items, succeeded, failed, rows, granted)"
    " VALUES (?, 'planned', 0, ?, 0, 0, 0, 0)"
)
_SET = ("state", "attempts", "succeeded", "failed", "rows", "part", "offset", "header", "length", "crc")
_PARAMETERS = {name: f"?{number}" for number, name in enumerate(_SET, 1)}
_DECIDED = (
    f"UPDATE mini_batches SET {', '.join(f'{name}={value}' for name, value in _PARAMETERS.items())},"
    f" checksum={updated_checksum(_PARAMETERS)} WHERE mini_batch=?{len(_SET) + 1}"
)
_ISOLATED = "stop - start = 1 AND outcome <> 'succeeded'"  #: condition on pieces: single items that failed
_WITHOUT_PIECES = "NOT EXISTS (SELECT 1 FROM pieces WHERE pieces.mini_batch = mini_batches.mini_batch)"
_LAST_OUTCOME = "(SELECT outcome FROM attempts WHERE attempts.mini_batch = mini_batches.mini_batch AND attempt = attempts)"
#: Condition on mini-batches: all attempts are used, and bisection may find items that succeed.
_ISOLABLE = f"state = 'failed' AND items > 1 AND {_WITHOUT_PIECES} AND {_LAST_OUTCOME} NOT IN {tuple(map(str, NOT_ISOLATED))}"
_NO_ERROR = ("", "", "", "")  #: error type, error, traceback and fingerprint of a success
_BLOCK = 1_000  #: rows per fetch: memory stays flat however long the plan is
_CHECK_EVERY = 200_000  #: steps of SQLite's machine, some milliseconds
_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)  #: SQLite's message about a damaged schema quotes its bytes
_INTERRUPTED = "interrupted"  #: SQLite's message about a query that was stopped on purpose
_CACHE = 1_024  #: KiB of pages: rows are written in their order, so older pages are rarely needed again


class Place(NamedTuple):
    """Location of the rows of a mini-batch."""

    mini_batch: int
    part: str
    offset: int
    header: int  #: bytes of header line in front
    length: int  #: bytes, header included
    crc: int  #: CRC-32 of these bytes
    rows: int


class RecordedCommand(NamedTuple):
    """A command that a user sent while the run was executing, and its answer."""

    id: str
    at: float | None  #: Unix time, s
    by: str | None  #: user@host/process
    what: str  #: JSON; the first part of an invalid command
    applied_at: float | None  #: Unix time, s; None: rejected
    answer: str


class Ledger:
    """An open ledger. One process writes; others may read concurrently."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if not create and not path.is_file():
            raise RunFileError(str(path), "does not exist")
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE}")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # atomic always; a power cut may undo the newest
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        except _UNREADABLE as error:
            self._connection.close()
            raise RunFileError(str(path), f"cannot be read as a ledger: {error}") from error
        if version > VERSION:
            self._connection.close()
            message = "was written by a newer version of prefect_parallel_run; use that version"
            raise OutputError(str(path), f"{message} (ledger format {version}; this version reads up to {VERSION})")

    @classmethod
    def create(cls, path: Path, items: Iterable[int]) -> Ledger:
        """Create the ledger of a new run, with one row per mini-batch; *items* are their numbers of items, in plan order."""
        ledger = cls(path, create=True)
        with ledger._transaction() as connection:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            for statement in protections(ledger.rows):
                connection.execute(statement)
            connection.executemany(_PLANNED, enumerate(items))
        return ledger

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # Writing

    def protect(self) -> None:
        """Install triggers that maintain the checksums that ``integrity.py`` verifies; call it before a run is executed."""
        with self._transaction() as connection:
            for statement in list(protections(self.rows)):
                connection.execute(statement)

    def extend(self, items: Iterable[int]) -> None:
        """Append mini-batches to the plan; *items* are their numbers of items."""
        with self._transaction() as connection:
            connection.executemany(_PLANNED, enumerate(items, self.planned()))

    def commit(self, decided: Iterable[tuple[Receipt, str]]) -> None:
        """Write receipts, each with the new state of its mini-batch, in one transaction."""
        attempts, states = [], []
        for receipt, state in decided:
            failure = _NO_ERROR if receipt.outcome == Outcome.SUCCEEDED else _failure_of(receipt)
            attempts.append((*_attempt_of(receipt), *failure))
            failed = 0 if state == "isolating" else receipt.failed
            states.append((state, receipt.attempt, receipt.succeeded, failed, *_range_of(receipt), receipt.mini_batch))
        with self._transaction() as connection:
            connection.executemany("INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?,?)", attempts)
            connection.executemany(_DECIDED, states)

    def commit_piece(self, receipt: Receipt, piece: tuple[int, int], failed: int, state: str) -> None:
        """Write the receipt of a piece and the new state of its mini-batch, in one transaction.

        Args:
            receipt: Receipt of the piece.
            piece: Half-open range of its item indices in the mini-batch.
            failed: Number of items now known to have failed.
            state: State of the mini-batch: isolating, succeeded, failed.
        """
        index, _, outcome, *process = _attempt_of(receipt)
        values = (index, *piece, outcome, receipt.succeeded, failed, *_range_of(receipt), *process, *_failure_of(receipt))
        with self._transaction() as connection:
            connection.execute(f"INSERT INTO pieces VALUES ({','.join('?' * len(values))})", values)
            connection.execute(
                "UPDATE mini_batches SET state=?, succeeded=succeeded+?, failed=failed+?, rows=rows+? WHERE mini_batch=?",
                (state, receipt.succeeded, failed, receipt.rows, index),
            )

    def allow_more_attempts(self) -> int:
        """Allow run_max_try new attempts at every failed mini-batch, and return the number of these mini-batches.

        Mini-batches that succeeded except for isolated items count too: only these items run again, once.
        """
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM pieces WHERE mini_batch IN (SELECT mini_batch FROM mini_batches WHERE state='failed')"
            )
            failed = connection.execute(
                "UPDATE mini_batches SET state='waiting', granted=attempts, failed=0 WHERE state='failed'"
            ).rowcount
            isolated = f"SELECT COUNT(*) FROM pieces WHERE pieces.mini_batch = mini_batches.mini_batch AND {_ISOLATED}"
            partly_failed = connection.execute(
                f"UPDATE mini_batches SET state='isolating', failed=failed-({isolated})"
                f" WHERE state='succeeded' AND ({isolated}) > 0"
            ).rowcount
            connection.execute(f"DELETE FROM pieces WHERE {_ISOLATED}")
            return failed + partly_failed

    def copy_from(self, other: Path, pairs: Iterable[tuple[int, int]], prefix: str) -> int:
        """Copy the records of some mini-batches from another ledger, and return how many have started there.

        Args:
            other: The other ledger.
            pairs: For each mini-batch, its number in the other ledger and in this one.
            prefix: Added in front of the names of part files.
        """
        self._connection.execute("ATTACH DATABASE ? AS other", (str(other),))
        try:
            with self._transaction() as connection:
                connection.execute("CREATE TEMP TABLE pairs (there INTEGER PRIMARY KEY, here INTEGER)")
                connection.executemany("INSERT INTO pairs VALUES (?, ?)", pairs)
                connection.execute(
                    "INSERT INTO main.attempts SELECT here, attempt, outcome, node, pid, started, seconds, error_type, error,"
                    " traceback, fingerprint FROM other.attempts JOIN pairs ON there = mini_batch"
                )
                copied = connection.execute(
                    "INSERT OR REPLACE INTO main.mini_batches (mini_batch, state, attempts, items, succeeded, failed, rows,"
                    " part, offset, header, length, crc, granted)"
                    " SELECT here, state, attempts, items, succeeded, failed, rows,"
                    " CASE WHEN part <> '' THEN ? || part ELSE part END, offset, header, length, crc, granted"
                    " FROM other.mini_batches JOIN pairs ON there = mini_batch WHERE state <> 'planned'",
                    (prefix,),
                ).rowcount
                connection.execute(
                    "INSERT INTO main.pieces SELECT here, start, stop, outcome, succeeded, failed, rows,"
                    " CASE WHEN part <> '' THEN ? || part ELSE part END, offset, header, length, crc, node, pid, started,"
                    " seconds, error_type, error, traceback, fingerprint FROM other.pieces JOIN pairs ON there = mini_batch",
                    (prefix,),
                )
                connection.execute("DROP TABLE pairs")
                connection.execute(FILL_CHECKSUMS)
                connection.execute(  # users' overrides of the old run apply to the new run too
                    "INSERT OR REPLACE INTO main.run SELECT key, value FROM other.run WHERE key = 'adjustments'"
                )
        finally:
            self._connection.execute("DETACH DATABASE other")
        return copied

    def fail_exhausted(self, run_max_try: int, *, isolate: bool) -> None:
        """Fail waiting mini-batches that have used up *run_max_try* attempts, which may be lower than in the last execution.

        With *isolate*, mini-batches that failed as a whole are bisected.
        """
        state = "CASE WHEN items > 1 THEN 'isolating' ELSE 'failed' END" if isolate else "'failed'"
        with self._transaction() as connection:
            connection.execute(
                f"UPDATE mini_batches SET state={state}, failed=CASE WHEN {state}='failed' THEN items ELSE 0 END"
                " WHERE state='waiting' AND attempts >= ? + granted",
                (run_max_try,),
            )
            if isolate:
                connection.execute(f"UPDATE mini_batches SET state='isolating', failed=0 WHERE {_ISOLABLE}")

    def isolable(self) -> tuple[int, int]:
        """Return how many failed mini-batches can be bisected, and their number of items."""
        count, items = self._row(f"SELECT COUNT(*), COALESCE(SUM(items), 0) FROM mini_batches WHERE {_ISOLABLE}")
        return int(count), int(items)

    def record(self, **metadata: str) -> None:
        """Record metadata of the run: its status, its start, the number of executions."""
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", metadata.items())

    def record_command(self, command: RecordedCommand, metadata: Mapping[str, str]) -> None:
        """Record a command and the metadata that it changes, in one transaction."""
        with self._transaction() as connection:
            connection.execute(COMMANDS_TABLE)  # a ledger of an earlier version lacks this table
            connection.execute("INSERT INTO controls VALUES (?,?,?,?,?,?)", command)
            connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", metadata.items())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block writes, or nothing; raises this package's errors."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:  # after a full disk, SQLite has rolled back itself
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                raise self._write_error(error) from error
            raise

    def _write_error(self, error: sqlite3.DatabaseError) -> OutputError:
        if "readonly" in str(error) and all(os.access(path, os.W_OK) for path in (self.path, self.path.parent)):
            return RunFileError(str(self.path), f"has a damaged header: {error}")
        if isinstance(error, sqlite3.OperationalError):  # a full disk, a deleted folder
            return OutputError(str(self.path), f"cannot be written: {error}")
        return RunFileError(str(self.path), f"cannot be read: {error}")

    # Reading

    def watch(self, check_cancelled: CheckCancelled) -> None:
        """Call *check_cancelled* during long queries; when it raises, the query fails with an sqlite3.OperationalError."""

        def is_cancelled() -> bool:
            try:
                check_cancelled()
            except BaseException:  # noqa: BLE001  cannot pass through SQLite; the caller's next check raises again
                return True
            return False

        self._connection.set_progress_handler(is_cancelled, _CHECK_EVERY)

    def planned(self) -> int:
        """Return the number of mini-batches planned so far."""
        return int(self._row("SELECT COALESCE(MAX(mini_batch), -1) + 1 FROM mini_batches")[0])

    def is_empty(self) -> bool:
        """True when there has been no attempt yet."""
        return not any(self.rows("SELECT 1 FROM attempts LIMIT 1"))

    def metadata(self) -> dict[str, str]:
        """Return the recorded metadata; raises RunFileError when it was altered."""
        metadata = dict(self.rows("SELECT key, value FROM run"))
        if is_metadata_altered(self.rows):
            raise RunFileError(str(self.path), "the facts about the run were altered")
        return metadata

    def commands(self) -> list[RecordedCommand]:
        """Return the commands that users sent, in chronological order."""
        if not any(self.rows("SELECT 1 FROM sqlite_master WHERE name='controls'")):
            return []
        return [RecordedCommand(*row) for row in self.rows("SELECT * FROM controls ORDER BY at, id")]

    def tally(self) -> Tally:
        """Return the counts over all mini-batches."""
        row = self._row(
            "SELECT COUNT(*), TOTAL(state='succeeded'), TOTAL(state='failed'), TOTAL(state IN ('waiting', 'isolating')),"
            " TOTAL(items), TOTAL(CASE WHEN state IN ('succeeded', 'isolating') THEN succeeded END),"
            " TOTAL(CASE WHEN state IN ('succeeded', 'failed', 'isolating') THEN failed END),"
            " TOTAL(CASE state WHEN 'waiting' THEN items WHEN 'isolating' THEN items - succeeded - failed END),"
            " TOTAL(CASE WHEN state IN ('succeeded', 'isolating') THEN rows END), TOTAL(state='planned') FROM mini_batches"
        )
        planned, succeeded, failed, waiting, items, good, bad, between, rows, untouched = map(int, row)
        return Tally(
            planned=planned,
            succeeded=succeeded,
            failed=failed,
            waiting=waiting,
            items=items,
            succeeded_items=good,
            failed_items=bad,
            waiting_items=between,
            rows=rows,
            all_scheduled=untouched == 0,
        )

    def pending_work(self, *, is_growing: bool = False) -> PendingWork:
        """Return the pending work; *is_growing* means that planning continues."""
        waiting = self.rows(
            "SELECT mini_batch, attempts + 1, items, granted FROM mini_batches WHERE state='waiting' ORDER BY mini_batch"
        )
        return PendingWork(
            tally=replace(self.tally(), is_growing=is_growing),
            pending=tuple(self._planned_ranges()),
            waiting=tuple(waiting),
            isolating=tuple(self._isolating()),
        )

    def _isolating(self) -> Iterator[BisectionState]:
        query = (
            "SELECT mini_batch, attempts, items, items - succeeded - failed FROM mini_batches WHERE state='isolating'"
            " ORDER BY mini_batch"
        )
        for index, attempt, items, undecided in list(self.rows(query)):
            pieces = self.rows(
                "SELECT start, stop, outcome='succeeded' FROM pieces WHERE mini_batch=? ORDER BY start, stop", index
            )
            finished = tuple((start, stop, bool(succeeded)) for start, stop, succeeded in pieces)
            yield BisectionState(index, attempt, items, undecided, finished)

    def _planned_ranges(self) -> Iterator[tuple[int, int]]:
        start = stop = -1
        for (index,) in self.rows("SELECT mini_batch FROM mini_batches WHERE state='planned' ORDER BY mini_batch"):
            if index != stop:
                if stop > start:
                    yield start, stop
                start = index
            stop = index + 1
        if stop > start:
            yield start, stop

    def places(self) -> Iterator[Place]:
        """Yield the locations of the rows of all succeeded mini-batches, in mini-batch order."""
        query = (
            "SELECT mini_batch, part, offset, header, length, crc, rows FROM ("
            " SELECT mini_batch, 0 AS start, part, offset, header, length, crc, rows FROM mini_batches"
            "  WHERE state='succeeded' AND part <> ''"
            " UNION ALL SELECT mini_batch, start, part, offset, header, length, crc, rows FROM pieces"
            "  WHERE outcome='succeeded' AND part <> '' ORDER BY mini_batch, start)"
        )
        for mini_batch, part, *place in self.rows(query):
            yield Place(mini_batch, intern(part), *place)  # one string per part: there may be millions of places

    def committed_bytes(self) -> dict[str, int]:
        """Return the size of the committed prefix of each part, in bytes: these bytes never change."""
        query = (
            "SELECT part, MAX(stop) FROM (SELECT part, offset + length AS stop FROM mini_batches WHERE part <> ''"
            " UNION ALL SELECT part, offset + length FROM pieces WHERE part <> '') GROUP BY part"
        )
        return dict(self.rows(query))

    def rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in blocks, so that memory stays flat; raises RunFileError when the ledger is damaged."""
        with self._reading():
            cursor = self._connection.execute(query, values)
            block = cursor.fetchmany(_BLOCK)
        while block:
            yield from block
            with self._reading():
                block = cursor.fetchmany(_BLOCK)

    def _row(self, query: str) -> tuple[Any, ...]:
        return next(self.rows(query))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            if str(error) == _INTERRUPTED:  # by ``watch``: the file is fine
                raise
            kind = OutputError if "locked" in str(error) else RunFileError
            raise kind(str(self.path), f"cannot be read: {error}") from error


_attempt_of = attrgetter("mini_batch", "attempt", "outcome", "node", "pid", "started", "seconds")
_range_of = attrgetter("rows", "part", "offset", "header", "length", "crc")


def _failure_of(receipt: Receipt) -> tuple[str, str, str, str]:
    return storable(receipt.error_type), storable(receipt.error), storable(receipt.traceback), receipt.fingerprint
