"""Slots that have nothing to do, and the leases that wait for one."""

from __future__ import annotations

import threading
from collections import deque

from prefect_parallel_run.node.recall import Recall
from prefect_parallel_run.node.slot import Slot


class IdleSlots:
    """A queue of slots, for leases in the order in which they came.

    Who waits goes away empty-handed when no slot will come, or when the lease is called back.
    """

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self._waiting: deque[Recall] = deque()  # of the leases that wait
        self._is_closed = False
        self._change = threading.Condition()

    def put(self, slot: Slot) -> None:
        """Add a slot."""
        with self._change:
            self._slots.append(slot)
            self._change.notify_all()

    def take(self, recall: Recall) -> Slot | None:
        """Return a slot, waiting for one; None once no slot will come any more, or when *recall* was asked first."""
        with self._change:
            self._waiting.append(recall)
            self._change.wait_for(lambda: self._is_closed or recall.is_open or (self._slots and self._waiting[0] is recall))
            is_served = bool(self._slots) and not recall.is_open
            self._waiting.remove(recall)
            self._change.notify_all()  # another one may stand first now
            return self._slots.popleft() if is_served else None

    def remove(self, slot: Slot) -> bool:
        """Have a slot serve nobody; False when it is not here."""
        with self._change:
            if is_here := slot in self._slots:
                self._slots.remove(slot)
            return is_here

    def wake(self) -> None:
        """Have those who wait look at their recalls."""
        with self._change:
            self._change.notify_all()

    def close(self) -> list[Slot]:
        """Return all slots; from now on nobody waits. Those that are put later are for nobody."""
        with self._change:
            taken = list(self._slots)
            self._slots.clear()
            self._is_closed = True
            self._change.notify_all()
        return taken
