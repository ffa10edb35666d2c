"""What became of a lease: which receipts are its own, what of it has none, what comes back when its node is lost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from prefect_parallel_run.models import Lease, Receipt

_SPLIT = 8  #: a lost lease of several mini-batches comes back in this many pieces, so that a guilty one soon stands alone


def belonging(receipts: Iterable[Receipt], lease: Lease) -> Iterator[Receipt]:
    """Yield the receipts of mini-batches that the lease holds, for the try that it stands for."""
    for receipt in receipts:
        if lease.start <= receipt.mini_batch < lease.stop and receipt.attempt == lease.attempt:
            yield receipt


def missing(lease: Lease, receipts: dict[int, Receipt]) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges of a lease that have no receipt."""
    if len(receipts) == lease.count:
        return
    start = lease.start
    for index in [*sorted(receipts), lease.stop]:
        if index > start:
            yield start, index, lease.attempt
        start = index + 1


def is_last(receipt: Receipt, lease: Lease) -> bool:
    """True for the receipt of the lease's last mini-batch."""
    return receipt.mini_batch == lease.stop - 1


def without_last(lease: Lease) -> Lease:
    """Return a lease without its last mini-batch; it may be empty then."""
    return replace(lease, stop=lease.stop - 1)


def split(lease: Lease, *, started: bool) -> Iterator[tuple[int, int, int]]:
    """Yield a lost lease in smaller ones; one that had not begun comes back whole."""
    step = max(1, -(-lease.count // _SPLIT)) if started else lease.count
    for start in range(lease.start, lease.stop, step):
        yield start, min(start + step, lease.stop), lease.attempt


def lost(lease: Lease, items: int) -> Receipt:
    """Return the receipt of a try that was lost with its node; the dispatcher knows when it was sent."""
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
