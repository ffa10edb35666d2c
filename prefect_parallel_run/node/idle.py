"""The idle slots of a node, and the leases that wait for one."""

from __future__ import annotations

import threading
from collections import deque

from prefect_parallel_run.node.recall import RecallRequest
from prefect_parallel_run.node.slot import Slot


class IdleSlots:
    """A queue of slots, served to leases in order of arrival.

    A waiting lease gets None when no slot is left or when the lease is recalled.
    """

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self._waiting: deque[RecallRequest] = deque()  # recall requests of the waiting leases
        self._is_closed = False
        self._change = threading.Condition()

    def put(self, slot: Slot) -> None:
        """Add a slot."""
        with self._change:
            self._slots.append(slot)
            self._change.notify_all()

    def acquire(self, recall: RecallRequest) -> Slot | None:
        """Wait for a slot and return it; None once the queue is closed, or when *recall* is requested first."""
        with self._change:
            self._waiting.append(recall)
            self._change.wait_for(lambda: self._is_closed or recall.is_pending or (self._slots and self._waiting[0] is recall))
            is_served = bool(self._slots) and not recall.is_pending
            self._waiting.remove(recall)
            self._change.notify_all()  # another lease may be first now
            return self._slots.popleft() if is_served else None

    def remove(self, slot: Slot) -> bool:
        """Remove a slot; return False when it is not idle."""
        with self._change:
            if is_idle := slot in self._slots:
                self._slots.remove(slot)
            return is_idle

    def wake(self) -> None:
        """Have the waiting leases check their recall requests."""
        with self._change:
            self._change.notify_all()

    def close(self) -> list[Slot]:
        """Close the queue and return its slots; slots that are put later are never served."""
        with self._change:
            slots = list(self._slots)
            self._slots.clear()
            self._is_closed = True
            self._change.notify_all()
        return slots
