"""The work that is not leased: its order, how much of it goes into the next lease, and what a lease returns to it. Pure.

``Progress`` counts what is done.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from prefect_parallel_run.dispatch.bisection import BisectionResult, Piece
from prefect_parallel_run.models import Lease, Outcome, PendingWork, Receipt, Tally

_TARGET = 2.0  #: s of work in a lease: makes the 20 ms of CPU time for its messages negligible, and a lost lease is cheap
_MAX_PER_SECOND = 500  #: leases per second over all slots that a Dask scheduler handles without becoming the bottleneck
_GROWTH = 8  #: a lease is at most this many times the largest one that has finished
_WEIGHT = 0.3  #: weight of the latest lease in the running mean
_MIN_SECONDS = 0.03  #: s: smaller leases cost more than the wait at the end that they avoid
_SHARE = 3  #: near the end, the next lease is 1/_SHARE of a slot's share of the remaining work
_SPLIT = 8  #: a lost lease is returned in this many parts, so that a mini-batch that kills its node is soon alone


class Work(NamedTuple):
    """The content of a lease: consecutive mini-batches of one attempt, or a piece of one mini-batch."""

    start: int
    stop: int
    attempt: int
    piece: Piece | None = None


class LeaseSizer:
    """Tracks how long mini-batches take and computes the size of the next lease.

    A lease is about two seconds of work: one mini-batch at the start, few near the end.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size  #: mini-batches that fit into one message
        self._seconds: float | None = None  #: running mean per mini-batch
        self._largest = 0

    @property
    def mean(self) -> float:
        """Return the mean seconds per mini-batch; infinite before the first lease ends."""
        return float("inf") if self._seconds is None else self._seconds

    def record(self, count: int, seconds: float) -> None:
        """Record that a lease of *count* mini-batches took *seconds* in its slot."""
        mean = seconds / count
        self._seconds = mean if self._seconds is None else (1 - _WEIGHT) * self._seconds + _WEIGHT * mean
        self._largest = max(self._largest, count)

    def size(self, remaining: int, slots: int) -> int:
        """Return the number of mini-batches for the next lease; *remaining* are not leased yet, *slots* counts all nodes."""
        if self._seconds is None:
            return 1  # shows the first results, and the first failure, without delay
        target = int(max(_TARGET, slots / _MAX_PER_SECOND) / max(self._seconds, 1e-9))
        fair_share = -(-remaining // (_SHARE * max(slots, 1)))  # no slot should still be busy long after the others
        fair_share = max(fair_share, min(int(_MIN_SECONDS / max(self._seconds, 1e-9)), -(-remaining // max(slots, 1))))
        return max(1, min(target, self._largest * _GROWTH, fair_share, self._max_size, remaining))


class WorkQueue:
    """The mini-batches and pieces that are not leased.

    They are leased in this order: due retries and pieces, mini-batches that a lease returned, new ones.
    """

    def __init__(self, pending_work: PendingWork, sizer: LeaseSizer) -> None:
        self._sizer = sizer
        self._new = deque(Work(start, stop, attempt=1) for start, stop in pending_work.pending)
        self._new_count = sum(stop - start for start, stop in pending_work.pending)
        self._returned: deque[Work] = deque()
        self._due = [(0.0, Work(index, index + 1, attempt)) for index, attempt, *_ in pending_work.waiting]
        heapq.heapify(self._due)

    @property
    def has_new(self) -> bool:
        """True while a mini-batch has never been leased."""
        return self._new_count > 0

    @property
    def has_ranges(self) -> bool:
        """True while mini-batches are new or returned."""
        return bool(self._new or self._returned)

    @property
    def backlog(self) -> int:
        """Return the number of mini-batches and pieces."""
        return self._in_ranges() + len(self._due)

    def _in_ranges(self) -> int:
        return self._new_count + sum(stop - start for start, stop, *_ in self._returned)

    def next_due(self, now: float) -> float | None:
        """Return the time of the next retry or piece; None if there is none, or if it waits for a slot and not for a time."""
        return self._due[0][0] if self._due and self._due[0][0] > now else None

    def add_new(self, start: int, stop: int) -> None:
        """Add mini-batches that were planned."""
        self._new_count += stop - start
        if self._new and self._new[-1].stop == start:
            start = self._new.pop().start
        self._new.append(Work(start, stop, attempt=1))

    def add_retry(self, index: int, attempt: int, due: float, piece: Piece | None = None) -> None:
        """Add the retry of a mini-batch, or a piece of it."""
        heapq.heappush(self._due, (due, Work(index, index + 1, attempt, piece)))

    def add_returned(self, works: Iterable[Work]) -> None:
        """Add mini-batches that were leased, but did not run."""
        self._returned.extend(works)

    def pop(self, now: float, slots: int, *, is_holding: bool, at_most: int) -> Work | None:
        """Return the work of the next lease, or None; with *is_holding*, first attempts are held back."""
        if self._due and self._due[0][0] <= now:
            return heapq.heappop(self._due)[1]
        for _ in range(len(self._returned)):
            if not is_holding or self._returned[0].attempt > 1:
                return self._take(self._returned, slots, at_most)
            self._returned.rotate(-1)
        if self._new and not is_holding:
            work = self._take(self._new, slots, at_most)
            self._new_count -= work.stop - work.start
            return work
        return None

    def _take(self, works: deque[Work], slots: int, at_most: int) -> Work:
        """Remove and return the beginning of the first of *works*."""
        first = works[0]
        stop = min(first.stop, first.start + min(self._sizer.size(self._in_ranges(), slots), at_most))
        if stop < first.stop:
            works[0] = first._replace(start=stop)
        else:
            works.popleft()
        return first._replace(stop=stop)


def matching(receipts: Iterable[Receipt], lease: Lease) -> Iterator[Receipt]:
    """Yield the receipts that match the mini-batches and the attempt of a lease."""
    for receipt in receipts:
        if lease.start <= receipt.mini_batch < lease.stop and receipt.attempt == lease.attempt:
            yield receipt


def without_receipt(lease: Lease, receipts: dict[int, Receipt]) -> Iterator[Work]:
    """Yield the mini-batches of a lease that lack a receipt."""
    if len(receipts) == lease.count:
        return
    start = lease.start
    for index in [*sorted(receipts), lease.stop]:
        if index > start:
            yield Work(start, index, lease.attempt)
        start = index + 1


def without_last(lease: Lease) -> Lease:
    """Return a copy of a lease without its last mini-batch; it may be empty."""
    return replace(lease, stop=lease.stop - 1)


def split(lease: Lease, *, started: bool) -> Iterator[Work]:
    """Yield the work to lease again after a loss; a lease that had not started stays whole."""
    step = max(1, -(-lease.count // _SPLIT)) if started else lease.count
    for start in range(lease.start, lease.stop, step):
        yield Work(start, min(start + step, lease.stop), lease.attempt)


def lost_receipt(lease: Lease, items: int) -> Receipt:
    """Return the receipt of an attempt that was lost with its node; the dispatcher adds the time."""
    return Receipt.of_failure(
        lease.start,
        lease.attempt,
        Outcome.LOST,
        items=items,
        started=0.0,
        seconds=0.0,
        node=lease.node,
        error_type="NodeLost",
        error=f"node {lease.node} was lost while it ran this mini-batch",
        fingerprint=str(Outcome.LOST),
    )


class Progress:
    """Counts mini-batches and items by outcome."""

    def __init__(self, pending_work: PendingWork) -> None:
        tally = pending_work.tally
        self.planned, self.items, self.rows = tally.planned, tally.items, tally.rows
        self.succeeded, self.succeeded_items = tally.succeeded, tally.succeeded_items
        self.failed, self.failed_items = tally.failed, tally.failed_items
        self.is_growing = tally.is_growing
        self._waiting = {index: items for index, _, items, _ in pending_work.waiting}  # undecided items, by mini-batch
        self._waiting.update((bisection.mini_batch, bisection.undecided) for bisection in pending_work.isolating)
        self._waiting_items = sum(self._waiting.values())

    def tally(self, *, has_new: bool) -> Tally:
        """Return the counts; *has_new*: a mini-batch has never been leased."""
        return Tally(
            planned=self.planned,
            succeeded=self.succeeded,
            failed=self.failed,
            waiting=len(self._waiting),
            items=self.items,
            succeeded_items=self.succeeded_items,
            failed_items=self.failed_items,
            waiting_items=self._waiting_items,
            rows=self.rows,
            all_scheduled=not has_new and not self.is_growing,
            is_growing=self.is_growing,
        )

    def grow(self, items: list[int]) -> None:
        """Count planned mini-batches, given the number of items of each."""
        self.planned += len(items)
        self.items += sum(items)

    def record(self, receipt: Receipt, state: str) -> None:
        """Count the last attempt of a mini-batch, which put it into *state*."""
        if self._waiting:
            self._waiting_items -= self._waiting.pop(receipt.mini_batch, 0)
        if state == "succeeded":
            self.succeeded += 1
            self.succeeded_items += receipt.succeeded
            self.failed_items += receipt.failed
            self.rows += receipt.rows
        elif state == "failed":
            self.failed += 1
            self.failed_items += receipt.items
        else:
            self._waiting[receipt.mini_batch] = receipt.items
            self._waiting_items += receipt.items

    def record_piece(self, receipt: Receipt, result: BisectionResult) -> None:
        """Count the outcome of a piece of a mini-batch."""
        index = receipt.mini_batch
        self._waiting[index] -= result.decided
        self._waiting_items -= result.decided
        self.failed_items += result.failed
        if receipt.outcome == Outcome.SUCCEEDED:
            self.succeeded_items += receipt.succeeded
            self.rows += receipt.rows
        if result.state != "isolating":
            del self._waiting[index]
            self.succeeded += result.state == "succeeded"
            self.failed += result.state == "failed"
