"""How many mini-batches travel together: about half a second's worth, one at the start, few near the end. Pure."""

from __future__ import annotations

_TARGET = 0.5  #: s of work in a lease: Dask's few ms per task vanish beside it, and a lost lease costs little
_MOST_A_SECOND = 500  #: leases, over all slots: what a Dask scheduler sends without becoming the bottleneck
_GROWTH = 8  #: a lease is at most this many times the largest one that has come home
_MEMORY = 0.3  #: weight of the newest lease in the running mean
_LEAST = 0.03  #: s: smaller leases cost more than the wait at the end that they save
_SHARE = 3  #: near the end, a slot's next lease is this fraction of its share of what is left


class LeaseSizer:
    """Follows how long mini-batches take and says how many the next lease should hold."""

    def __init__(self, most: int) -> None:
        self._most = most  #: what fits into one message
        self._seconds: float | None = None  #: running mean per mini-batch
        self._largest = 0

    @property
    def mean(self) -> float:
        """Return the seconds per mini-batch as seen so far; infinite while nothing is known."""
        return float("inf") if self._seconds is None else self._seconds

    def observe(self, count: int, seconds: float) -> None:
        """Take note of a lease of *count* mini-batches that took *seconds* in its slot."""
        mean = seconds / count
        self._seconds = mean if self._seconds is None else (1 - _MEMORY) * self._seconds + _MEMORY * mean
        self._largest = max(self._largest, count)

    def size(self, remaining: int, slots: int) -> int:
        """Return the mini-batches for the next lease; *remaining* are not yet handed out, to *slots* in all."""
        if self._seconds is None:
            return 1  # the first results, and the first failure, show at once
        worth_a_message = int(max(_TARGET, slots / _MOST_A_SECOND) / max(self._seconds, 1e-9))
        fair = -(-remaining // (_SHARE * max(slots, 1)))  # no slot should still be busy long after the others
        fair = max(fair, min(int(_LEAST / max(self._seconds, 1e-9)), -(-remaining // max(slots, 1))))
        return max(1, min(worth_a_message, self._largest * _GROWTH, fair, self._most, remaining))
