"""The frozen values that travel between planning, dispatch, nodes, ledger and output. No behaviour beyond arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


def drive_prefix(drive: int) -> str:
    """Return what the names of files begin with that belong to one drive of a run; the first one's have no prefix.

    >>> drive_prefix(1), drive_prefix(2)
    ('', 'r2.')
    """
    return f"r{drive}." if drive > 1 else ""


class PlannedBatch(NamedTuple):
    """One mini-batch as a dataset cuts it, before it has a number.

    ``work`` is a JSON object in one line: all that a child needs to read the items (child/reading.py lists its
    shapes). It is made once, at planning, and travels as text, so that nothing between plan and child parses it.
    """

    items: int  #: files, or rows of a table
    size: int  #: bytes of source
    work: str


class MiniBatch(NamedTuple):
    """One row of the plan."""

    number: int  #: from 0, in plan order
    input_name: str
    items: int
    size: int  #: bytes of source
    work: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Mini-batches that travel to a node together: consecutive ones on their first try, or one that is tried again."""

    id: int
    node: str
    start: int  #: first mini-batch
    stop: int  #: one past the last
    attempt: int = 1  #: the try that this is, from 1
    piece: tuple[int, int] | None = None  #: only these of the one mini-batch's items (half-open), to find the guilty ones

    @property
    def count(self) -> int:
        """Mini-batches in the lease."""
        return self.stop - self.start


NOT_ISOLATED = ("input_changed", "unwritable")  #: outcomes: no item of the mini-batch is to blame, or all would be


class Receipt(NamedTuple):
    """What came of one try at one mini-batch. Fields up to ``seconds`` are what a child answers; the order is the wire's.

    outcome: ``succeeded``, ``raised``, ``wrong_type``, ``input_changed``, ``timed_out``, ``died``, ``lost``,
    ``out_of_memory``, ``unwritable``.
    """

    mini_batch: int
    attempt: int  #: from 1
    outcome: str
    items: int  #: items in the mini-batch
    succeeded: int
    failed: int
    rows: int  #: rows returned; may exceed items
    part: str  #: name of the part file; "" when no rows were kept
    offset: int  #: where the mini-batch's bytes begin in the part
    header: int  #: bytes of header line, or of the schema of Parquet rows, in front of the rows
    length: int  #: bytes, header included
    crc: int  #: CRC-32 of these bytes
    started: float  #: Unix time, s
    seconds: float
    node: str = ""
    pid: int = 0
    error_type: str = ""
    error: str = ""  #: the exception's text
    traceback: str = ""
    fingerprint: str = ""  #: equal for failures of one cause
    final: bool = False  #: the script asked for no further try

    @classmethod
    def of_failure(cls, mini_batch: int, attempt: int, outcome: str, *, items: int = -1, **facts: Any) -> Receipt:
        """Return the receipt of a try that left no rows; *facts* are its fields from ``started`` on.

        Without *items* (-1) the plan knows how many there were.
        """
        nothing = {"rows": 0, "part": "", "offset": 0, "header": 0, "length": 0, "crc": 0}
        return cls(mini_batch, attempt, outcome, items, succeeded=0, failed=items, **{**nothing, **facts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts so far. A mini-batch is in exactly one of succeeded, failed, waiting (between two tries) and the rest."""

    planned: int = 0  #: mini-batches
    succeeded: int = 0
    failed: int = 0  #: for good
    waiting: int = 0  #: failed at least once, with a try left or under way
    items: int = 0
    succeeded_items: int = 0
    failed_items: int = 0  #: for good, those missing from mini-batches that succeeded included
    waiting_items: int = 0
    rows: int = 0
    all_scheduled: bool = False  #: every mini-batch has been handed out at least once
    is_growing: bool = False  #: the input is still being listed: planned and items are what is known so far

    @property
    def finished(self) -> int:
        """Mini-batches whose outcome is final."""
        return self.succeeded + self.failed

    def by_outcome(self) -> dict[str, Any]:
        """Return the counts of items and mini-batches as a receipt has them: each in exactly one outcome."""
        return {
            "items": {
                "total": self.items,
                "succeeded": self.succeeded_items,
                "failed": self.failed_items,
                "not_reached": self.items - self.succeeded_items - self.failed_items,
            },
            "mini_batches": {
                "total": self.planned,
                "succeeded": self.succeeded,
                "failed": self.failed,
                "not_reached": self.planned - self.finished,
            },
            "rows": self.rows,
        }


class BisectionState(NamedTuple):
    """A mini-batch whose guilty items are being looked for."""

    mini_batch: int
    attempt: int  #: its last try
    items: int
    undecided: int  #: items that are not yet known to be good or guilty
    pieces: tuple[tuple[int, int, bool], ...]  #: start, stop, and whether it succeeded, of those that have been run


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWork:
    """What is left to do: all of it for a new run, less for one that is resumed from its ledger.

    While its tally is growing, further mini-batches come at the end.
    """

    tally: Tally
    pending: tuple[tuple[int, int], ...]  #: half-open ranges, in order
    isolating: tuple[BisectionState, ...] = ()
    waiting: tuple[tuple[int, int, int, int], ...] = ()  #: mini-batch, its next try, its items, tries that no longer count


class Breach(NamedTuple):
    """A limit that was exceeded, with its figures."""

    limit: str
    allowed: float
    actual: float
