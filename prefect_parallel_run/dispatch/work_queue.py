"""What becomes a lease: its size, and what is left of it when it ends or is lost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from prefect_parallel_run.models import Lease, Receipt

_TARGET = 0.5  #: s of work in a lease: makes Dask's few ms per task negligible, and a lost lease is cheap
_MAX_PER_SECOND = 500  #: leases per second over all slots that a Dask scheduler handles without becoming the bottleneck
_GROWTH = 8  #: a lease is at most this many times the largest one that has finished
_WEIGHT = 0.3  #: weight of the latest lease in the running mean
_MIN_SECONDS = 0.03  #: s: smaller leases cost more than the wait at the end that they avoid
_SHARE = 3  #: near the end, the next lease is 1/_SHARE of a slot's share of the remaining work
_SPLIT = 8  #: a lost lease is returned in this many parts, so that a mini-batch that kills its node is soon alone


class LeaseSizer:
    """Tracks how long mini-batches take and computes the size of the next lease."""

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


def matching(receipts: Iterable[Receipt], lease: Lease) -> Iterator[Receipt]:
    """Yield the receipts that match the mini-batches and the attempt of a lease."""
    for receipt in receipts:
        if lease.start <= receipt.mini_batch < lease.stop and receipt.attempt == lease.attempt:
            yield receipt


def without_receipt(lease: Lease, receipts: dict[int, Receipt]) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges of a lease that lack a receipt."""
    if len(receipts) == lease.count:
        return
    start = lease.start
    for index in [*sorted(receipts), lease.stop]:
        if index > start:
            yield start, index, lease.attempt
        start = index + 1


def is_last(receipt: Receipt, lease: Lease) -> bool:
    """Return whether a receipt is for the last mini-batch of a lease."""
    return receipt.mini_batch == lease.stop - 1


def without_last(lease: Lease) -> Lease:
    """Return a copy of a lease without its last mini-batch; it may be empty."""
    return replace(lease, stop=lease.stop - 1)


def split(lease: Lease, *, started: bool) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges to lease again after a loss; a lease that had not started stays whole."""
    step = max(1, -(-lease.count // _SPLIT)) if started else lease.count
    for start in range(lease.start, lease.stop, step):
        yield start, min(start + step, lease.stop), lease.attempt


def lost_receipt(lease: Lease, items: int) -> Receipt:
    """Return the receipt of an attempt that was lost with its node; the dispatcher adds the time."""
    return Receipt.of_failure(
        lease.start,
        lease.attempt,
        "lost",
        items=items,
        started=0.0,
        seconds=0.0,
        node=lease.node,
        error_type="NodeLost",
        error=f"node {lease.node} was lost while it ran this mini-batch",
        fingerprint="lost",
    )


def should_retry(receipt: Receipt, run_max_try: int) -> bool:
    """Return whether a mini-batch is retried after a failed attempt.

    ``run_max_try`` counts attempts, including the first; a final receipt (NoRetry, changed input) rules out a retry.

    >>> from prefect_parallel_run.models import Receipt
    >>> second = Receipt(7, 2, "raised", 10, 0, 10, 0, "", 0, 0, 0, 0, 0.0, 0.1)
    >>> should_retry(second, 3), should_retry(second, 2), should_retry(second._replace(final=True), 3)
    (True, False, False)
    """
    return receipt.attempt < run_max_try and not receipt.final
