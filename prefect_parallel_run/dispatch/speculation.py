"""Leases that are out, seen from a slot that has nothing left to do. Pure.

Two things shorten the end of a run. A lease *gives back* what it has not begun, which others then run: a mini-batch that takes
long holds up nobody behind it. And, where the configuration asks for it, a mini-batch that takes long is run a second time on
another node; the two leases are *twins*. That is one try still, and is done once per try.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect_parallel_run.models import Lease

_OVERDUE = 0.1  #: s: leases near the end are planned to be shorter than that
_SLOW = 0.25  #: s of one mini-batch below which a second run could not be ahead by much
_SLOW_TIMES = 1.5  #: times what mini-batches take in the mean


@dataclass(slots=True)
class _Out:
    since: float  # when it was sent, or has said what it has not begun
    is_asked: bool = False
    running_only: bool = False  # has said so: its last mini-batch is the one that is running


class Stragglers:
    """Follows the leases that are out."""

    def __init__(self) -> None:
        self._out: dict[int, _Out] = {}  # in the order they were sent
        self._twins: dict[int, int] = {}
        self._copied: set[tuple[int, int]] = set()  # mini-batch and try, of those that have been run a second time
        self.next_look: float | None = None  #: when a lease will be out for so long that something can be done

    def note_sent(self, lease: Lease, now: float) -> None:
        """Take note of a lease that has been sent."""
        self._out[lease.id] = _Out(now)

    def note_answer(self, lease: int, now: float, *, is_known: bool) -> None:
        """Take note that a lease has given back what it had not begun, or was not known yet where it was asked."""
        self._out[lease] = _Out(now, is_asked=is_known, running_only=is_known)

    def forget(self, lease: int) -> None:
        """Take note that a lease is no longer out."""
        self._out.pop(lease, None)

    def to_ask(self, leases: Iterable[Lease], free: int, now: float) -> list[Lease]:
        """Return the leases to be asked for what they have not begun, those first that have been out the longest.

        Args:
            leases: Those that may have something, in the order they were sent.
            free: Slots that have nothing to do.
            now: Monotonic clock, s.
        """
        self.next_look = None
        room = free - sum(out.is_asked and not out.running_only for out in self._out.values())
        chosen: list[Lease] = []
        for lease in leases:
            out = self._out[lease.id]
            if out.is_asked or _last(lease) in self._copied:
                continue
            if len(chosen) >= room:
                break
            if now - out.since < _OVERDUE:
                self._look_at(out.since + _OVERDUE)
                break  # those behind it were sent later
            out.is_asked = True
            chosen.append(lease)
        return chosen

    def to_call_back(self, leases: Iterable[Lease], now: float) -> list[Lease]:
        """Return the leases of a paused run to be asked for what they have not begun.

        Twins are not: the mini-batch that both hold has begun.
        """
        self.next_look = None
        chosen: list[Lease] = []
        for lease in leases:
            out = self._out[lease.id]
            if out.is_asked or self.has_twin(lease.id):
                continue
            if now - out.since < _OVERDUE:  # it may not be there yet
                self._look_at(out.since + _OVERDUE)
            else:
                out.is_asked = True
                chosen.append(lease)
        return chosen

    def to_copy(self, leases: Iterable[Lease], mean: float, now: float) -> Lease | None:
        """Return the lease whose last mini-batch is worth running a second time: the one that has been at it the longest.

        Args:
            leases: Those that the slot may help.
            mean: Seconds per mini-batch so far.
            now: Monotonic clock, s.
        """
        slow = max(_SLOW, _SLOW_TIMES * mean)
        bare = ((self._out[lease.id].since, lease.id, lease) for lease in leases if self._is_alone_at_it(lease))
        since, _, lease = min(bare, default=(now, 0, None))
        if lease is not None and now - since < slow:
            self._look_at(since + slow)
            return None
        return lease

    def pair(self, lease: Lease, copy: Lease) -> None:
        """Take note that two leases run the same mini-batch, which is the last of both."""
        self._twins[lease.id], self._twins[copy.id] = copy.id, lease.id
        self._copied.add(_last(copy))

    def part(self, lease: int) -> int | None:
        """Return the lease that runs the same mini-batch as *lease*, or None; from then on they are no twins."""
        twin = self._twins.pop(lease, None)
        if twin is not None:
            del self._twins[twin]
        return twin

    def has_twin(self, lease: int) -> bool:
        """True when another lease runs the same mini-batch."""
        return lease in self._twins

    def _is_alone_at_it(self, lease: Lease) -> bool:
        return self._out[lease.id].running_only and lease.count > 0 and _last(lease) not in self._copied

    def _look_at(self, moment: float) -> None:
        self.next_look = moment if self.next_look is None else min(self.next_look, moment)


def _last(lease: Lease) -> tuple[int, int]:
    return lease.stop - 1, lease.attempt


def after(moments: Iterable[float | None]) -> float | None:
    """Return the earliest of some moments, None being never."""
    return min((moment for moment in moments if moment is not None), default=None)
