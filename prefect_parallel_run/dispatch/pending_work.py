"""Splits the outcome of a lease: its own receipts, ranges without a receipt, and ranges to run again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from prefect_parallel_run.models import Lease, Outcome, Receipt

_SPLIT = 8  #: a lost lease is returned in this many parts, so that a mini-batch that kills its node is soon alone


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
        Outcome.LOST,
        items=items,
        started=0.0,
        seconds=0.0,
        node=lease.node,
        error_type="NodeLost",
        error=f"node {lease.node} was lost while it ran this mini-batch",
        fingerprint=str(Outcome.LOST),
    )
