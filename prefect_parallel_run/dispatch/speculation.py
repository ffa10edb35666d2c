"""Shortens the end of a run by giving idle slots work from busy ones. Pure.

A recalled lease *returns* the mini-batches that it has not started, so that a slow mini-batch delays none behind it.
With speculative_execution, a slow mini-batch also runs a second time on another node. The two leases are *duplicates*;
they count as one attempt, and an attempt is duplicated at most once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect_parallel_run.models import Lease

_OVERDUE = 0.1  #: s: leases near the end are sized to be shorter than this
_SLOW = 0.25  #: s: duplicating a shorter mini-batch could not save much
_SLOW_TIMES = 1.5  #: multiple of the mean duration after which a mini-batch is slow


@dataclass(slots=True)
class _Running:
    since: float  # when it was sent, or returned what it had not started
    is_recalled: bool = False
    running_only: bool = False  # it was shortened to the mini-batch that is running


class StragglerTracker:
    """Tracks how long leases have been running."""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}  # in submission order
        self._duplicates: dict[int, int] = {}
        self._duplicated: set[tuple[int, int]] = set()  # mini-batch and attempt of those that were duplicated
        self.next_check: float | None = None  #: when a lease will have run long enough to be recalled or duplicated

    def record_sent(self, lease: Lease, now: float) -> None:
        """Record that a lease was sent."""
        self._running[lease.id] = _Running(now)

    def record_returned(self, lease: int, now: float, *, is_known: bool) -> None:
        """Record that a lease returned what it had not started, or had not reached its node when it was recalled."""
        self._running[lease] = _Running(now, is_recalled=is_known, running_only=is_known)

    def forget(self, lease: int) -> None:
        """Stop tracking a lease."""
        self._running.pop(lease, None)

    def to_recall(self, leases: Iterable[Lease], free: int, now: float) -> list[Lease]:
        """Return which of *leases*, in submission order, to recall for *free* idle slots, longest-running first."""
        self.next_check = None
        room = free - sum(running.is_recalled and not running.running_only for running in self._running.values())
        chosen: list[Lease] = []
        for lease in leases:
            running = self._running[lease.id]
            if running.is_recalled or _last_attempt(lease) in self._duplicated:
                continue
            if len(chosen) >= room:
                break
            if now - running.since < _OVERDUE:
                self._check_at(running.since + _OVERDUE)
                break  # the rest were sent later
            running.is_recalled = True
            chosen.append(lease)
        return chosen

    def to_recall_while_paused(self, leases: Iterable[Lease], now: float) -> list[Lease]:
        """Return the leases of a paused run to recall.

        Duplicates are not recalled: the mini-batch that both hold has started.
        """
        self.next_check = None
        chosen: list[Lease] = []
        for lease in leases:
            running = self._running[lease.id]
            if running.is_recalled or self.has_duplicate(lease.id):
                continue
            if now - running.since < _OVERDUE:  # it may not have reached its node yet
                self._check_at(running.since + _OVERDUE)
            else:
                running.is_recalled = True
                chosen.append(lease)
        return chosen

    def slowest(self, leases: Iterable[Lease], mean: float, now: float) -> Lease | None:
        """Return the lease whose last mini-batch is worth duplicating: the one that has been running it the longest.

        *leases* are those of other nodes, *mean* the mean seconds per mini-batch.
        """
        slow = max(_SLOW, _SLOW_TIMES * mean)
        candidates = ((self._running[lease.id].since, lease.id, lease) for lease in leases if self._can_duplicate(lease))
        since, _, lease = min(candidates, default=(now, 0, None))
        if lease is not None and now - since < slow:
            self._check_at(since + slow)
            return None
        return lease

    def link(self, lease: Lease, copy: Lease) -> None:
        """Record that two leases run the same mini-batch, the last of both."""
        self._duplicates[lease.id], self._duplicates[copy.id] = copy.id, lease.id
        self._duplicated.add(_last_attempt(copy))

    def unlink(self, lease: int) -> int | None:
        """Unlink a lease from its duplicate and return the duplicate's id, or None."""
        duplicate = self._duplicates.pop(lease, None)
        if duplicate is not None:
            del self._duplicates[duplicate]
        return duplicate

    def has_duplicate(self, lease: int) -> bool:
        """Return whether another lease runs the same mini-batch."""
        return lease in self._duplicates

    def _can_duplicate(self, lease: Lease) -> bool:
        return self._running[lease.id].running_only and lease.count > 0 and _last_attempt(lease) not in self._duplicated

    def _check_at(self, time: float) -> None:
        self.next_check = time if self.next_check is None else min(self.next_check, time)


def _last_attempt(lease: Lease) -> tuple[int, int]:
    return lease.stop - 1, lease.attempt


def earliest(times: Iterable[float | None]) -> float | None:
    """Return the earliest of some times; None means never."""
    return min((time for time in times if time is not None), default=None)
