"""Lease size: about half a second of work, one mini-batch at the start, few near the end. Pure."""

from __future__ import annotations

_TARGET = 0.5  #: s of work in a lease: makes Dask's few ms per task negligible, and a lost lease is cheap
_MAX_PER_SECOND = 500  #: leases per second over all slots that a Dask scheduler handles without becoming the bottleneck
_GROWTH = 8  #: a lease is at most this many times the largest one that has finished
_WEIGHT = 0.3  #: weight of the latest lease in the running mean
_MIN_SECONDS = 0.03  #: s: smaller leases cost more than the wait at the end that they avoid
_SHARE = 3  #: near the end, the next lease is 1/_SHARE of a slot's share of the remaining work


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
