"""Frozen values that are passed between planning, dispatch, nodes, ledger and output, and the failure limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prefect_parallel_run.child.receipt import Outcome as Outcome  # noqa: PLC0414  re-exported: values that travel come from here
from prefect_parallel_run.child.receipt import Receipt as Receipt  # noqa: PLC0414  re-exported like Outcome


def execution_prefix(execution: int) -> str:
    """Return the prefix of file names that belong to one execution of a run; "" for the first execution.

    >>> execution_prefix(1), execution_prefix(2)
    ('', 'r2.')
    """
    return f"r{execution}." if execution > 1 else ""


class PlannedBatch(NamedTuple):
    """One mini-batch of a dataset, before it has a number.

    ``work`` is a one-line JSON object with everything that a child needs to read the items (child/reading.py lists its
    shapes). It is encoded once, during planning, and passed on as a string, so that nothing between plan and child parses it.
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
    """Mini-batches that are sent to a node together: consecutive ones on their first attempt, or a single retry."""

    id: int
    node: str
    start: int  #: first mini-batch
    stop: int  #: one past the last
    attempt: int = 1  #: from 1
    piece: tuple[int, int] | None = None  #: for bisection: half-open range of items of the only mini-batch

    @property
    def count(self) -> int:
        """Return the number of mini-batches in the lease."""
        return self.stop - self.start


NOT_ISOLATED = (Outcome.INPUT_CHANGED, Outcome.UNWRITABLE)  #: bisection cannot attribute these to items


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Current counts. A mini-batch counts as one of succeeded, failed and waiting (for a retry), or as none of them yet."""

    planned: int = 0  #: mini-batches
    succeeded: int = 0
    failed: int = 0  #: finally
    waiting: int = 0  #: failed at least once, and will be or is being retried
    items: int = 0
    succeeded_items: int = 0
    failed_items: int = 0  #: finally, including those without a row in succeeded mini-batches
    waiting_items: int = 0
    rows: int = 0
    all_scheduled: bool = False  #: every mini-batch has been scheduled at least once
    is_growing: bool = False  #: planning continues: planned and items will increase

    @property
    def finished(self) -> int:
        """Return the number of mini-batches with a final outcome."""
        return self.succeeded + self.failed

    def by_outcome(self) -> dict[str, Any]:
        """Return the counts of items and mini-batches by outcome, in the form of receipt.json."""
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
    """A mini-batch that is being bisected to isolate its failing items."""

    mini_batch: int
    attempt: int  #: its last attempt
    items: int
    undecided: int  #: items that have neither succeeded nor failed finally
    pieces: tuple[tuple[int, int, bool], ...]  #: start, stop, and whether it succeeded, for each piece that has run


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWork:
    """The pending mini-batches: all of a new run, the unfinished ones of a resumed run.

    While its tally is growing, more mini-batches are added at the end.
    """

    tally: Tally
    pending: tuple[tuple[int, int], ...]  #: half-open ranges, in order
    isolating: tuple[BisectionState, ...] = ()
    waiting: tuple[tuple[int, int, int, int], ...] = ()  #: mini-batch, next attempt, items, attempts that no longer count


class Breach(NamedTuple):
    """A limit that was exceeded, with its values."""

    limit: str
    allowed: float
    actual: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """What a run tolerates over its whole input; None means no limit."""

    error_threshold: int | None = None  #: failed items
    allowed_failed_count: int | None = None  #: failed mini-batches
    allowed_failed_percent: float | None = None  #: failed mini-batches, 0 to 100 percent of those planned

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> FailureLimits:
        """Return the limits in a configuration, where -1, 100 and None mean no limit.

        >>> FailureLimits.of({"error_threshold": 4, "allowed_failed_count": -1})
        FailureLimits(error_threshold=4, allowed_failed_count=None, allowed_failed_percent=None)
        """
        no_limit = {"error_threshold": -1, "allowed_failed_count": -1, "allowed_failed_percent": 100}
        return cls(**{name: None if config.get(name) == limit else config.get(name) for name, limit in no_limit.items()})

    def breaches(self, tally: Tally) -> Iterator[Breach]:
        """Yield every limit that *tally* exceeds, in field order."""
        mini_batches, items = tally.failed, tally.failed_items
        measures: list[tuple[str, float | None, float]] = [
            ("error_threshold", self.error_threshold, items),
            ("allowed_failed_count", self.allowed_failed_count, mini_batches),
        ]
        if tally.all_scheduled:  # before that, the first failure of a long run could be 100 percent
            percent = 100 * mini_batches / tally.planned if tally.planned else 0.0
            measures.append(("allowed_failed_percent", self.allowed_failed_percent, percent))
        for limit, allowed, actual in measures:
            if allowed is not None and actual > allowed:
                yield Breach(limit, allowed, actual)

    def first_breach(self, tally: Tally) -> Breach | None:
        """Return the first limit that *tally* exceeds, or None."""
        return next(self.breaches(tally), None)

    def near_breach(self, tally: Tally, *, isolates: bool) -> Breach | None:
        """Return the first limit that would be exceeded if mini-batches that wait for a retry failed, or None.

        The run does not abort yet, since their next attempt may succeed: it waits for them. With bisection, each counts as one
        failed item, because bisection rarely finds that all items fail.
        """
        items = min(tally.waiting_items, tally.waiting) if isolates else tally.waiting_items
        failed, failed_items = tally.failed + tally.waiting, tally.failed_items + items
        return self.first_breach(replace(tally, failed=failed, failed_items=failed_items))
