"""The slots of a node: serves idle slots to leases in order of arrival, and adds or retires slots while leases run."""

from __future__ import annotations

import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.slot import RecallRequest, Slot, SlotStoppedError, SlotUnusableError


class Resized(NamedTuple):
    """The slots of a node after a resize."""

    slots: int  #: usable or starting
    ready: int  #: of these, slots whose child has started
    as_of: int  #: number of the resize that led to this
    leaving: tuple[int, ...]  #: leases whose slots are retired and close after them


class SlotReport(NamedTuple):
    """A slot's first child has started, or a slot has no child and cannot start one."""

    as_of: int  #: number of the last resize
    slots: int  #: active slots
    failure: StartFailure | None  #: None: it has started


class SlotPool:
    """The slots of one node.

    Every slot is starting, idle, busy, leaving or gone. Active slots have an index, from 0; a retired or failed slot has lost
    its index and gets no more leases. *create* receives the slot's index, and a number that is never used again, so that file
    names stay unique.
    """

    def __init__(self, create: Callable[[int, int], Slot], count: int) -> None:
        self._create = create
        self.all: list[Slot] = []  #: slots that have, or may have, a child
        self._active: dict[int, Slot] = {}  # by index
        self._ready: set[Slot] = set()  # slots whose first child has started
        self._idle: deque[Slot] = deque()
        self._waiting: deque[RecallRequest] = deque()  # recall requests of the leases that wait for a slot, in order
        self._busy: dict[Slot, RecallRequest] = {}  # recall request of the slot's lease
        self._leaving: dict[Slot, threading.Thread] = {}  # slots in shutdown()
        self._problems: list[str] = []  # errors in shutdown()
        self._failures: queue.SimpleQueue[StartFailure] = queue.SimpleQueue()
        self._next_number = self._as_of = 0
        self._report_callback: Callable[[SlotReport], None] | None = None
        self._unreported: list[SlotReport] = []  # from before there was a callback
        self._is_closed = False  # no slot is left, or the node is closing
        self._lock = threading.Condition()  # for all of this
        self._start([self._add(index) for index in range(count)])

    def acquire(self, recall: RecallRequest) -> Slot | None:
        """Wait for an idle slot and return it; None when the lease is recalled or no slot is left."""
        with self._lock:
            self._waiting.append(recall)
            self._lock.wait_for(lambda: self._is_closed or recall.is_pending or (self._idle and self._waiting[0] is recall))
            self._waiting.remove(recall)
            self._lock.notify_all()  # another lease may be first now
            if self._is_closed or recall.is_pending:
                return None
            slot = self._idle.popleft()
            self._busy[slot] = recall
            return slot

    def wake(self) -> None:
        """Have the waiting leases check their recall requests."""
        with self._lock:
            self._lock.notify_all()

    def release(self, slot: Slot) -> None:
        """Return a slot after its lease: it becomes idle, or shuts down if it was retired."""
        with self._lock:
            self._busy.pop(slot, None)
            if self._is_active(slot):
                self._idle.append(slot)
                self._lock.notify_all()
            else:
                self._leave(slot)

    def mark_failed(self, slot: Slot, failure: StartFailure) -> None:
        """Record that a slot has no child and cannot start one."""
        with self._lock:
            self._busy.pop(slot, None)
            if not self._is_active(slot):  # retired: not expected to work
                return
            self._deactivate(slot)
            self._failures.put(failure)
            if not self._active:
                self._is_closed = True
                self._lock.notify_all()
            report = self._report(failure)
        report()

    def try_retire(self, slot: Slot) -> bool:
        """Retire a slot whose script asks for one process less; return False for the last one, which is needed."""
        with self._lock:
            if len(self._active) == 1 and self._is_active(slot):
                return False
            self._deactivate(slot)
            return True

    def mark_exited(self, slot: Slot) -> None:
        """Record that the child of a retired slot has exited."""
        with self._lock:
            self._busy.pop(slot, None)
        self._remove(slot)

    def next_failure(self) -> StartFailure | None:
        """Return why a slot failed, once per slot."""
        try:
            return self._failures.get_nowait()
        except queue.Empty:
            return None

    def count(self) -> tuple[int, int]:
        """Return the number of active slots, 0 once all are closed, and the number of the last resize."""
        with self._lock:
            return (0 if self._is_closed else len(self._active)), self._as_of

    def resize(self, count: int, number: int) -> Resized:
        """Start or retire slots until there are *count*, without waiting for them; see ``Node.resize``."""
        fresh: list[Slot] = []
        with self._lock:
            if number > self._as_of:
                self._as_of = number
                if self._active and not self._is_closed:  # a node whose slots all failed has reported it
                    for index in sorted(index for index in self._active if index >= count):
                        self._retire(index)
                    fresh = [self._add(index) for index in range(count) if index not in self._active]
            ready = sum(slot in self._ready for slot in self._active.values())
            leaving = tuple(recall.lease for slot, recall in self._busy.items() if not self._is_active(slot))
            resized = Resized(len(self._active), ready, self._as_of, leaving)
        self._start(fresh)
        return resized

    def on_report(self, callback: Callable[[SlotReport], None]) -> None:
        """Call *callback* for every slot that becomes ready or fails, or already has."""
        with self._lock:
            self._report_callback, unreported, self._unreported = callback, self._unreported, []
        for report in unreported:
            callback(report)

    def close(self, *, graceful: bool) -> list[str]:
        """Stop all children, with shutdown() when *graceful*; return the errors in shutdown(), also of retired slots."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
            slots, leaving, ready = [*self.all], {**self._leaving}, {*self._idle}
        threads = [
            threading.Thread(target=self._close, args=(slot, graceful and slot in ready))
            for slot in slots
            if not graceful or slot not in leaving
        ]
        for thread in threads:
            thread.start()
        for thread in (*threads, *leaving.values()):
            thread.join()
        return [problem for problem in self._problems if problem]

    def _close(self, slot: Slot, graceful: bool) -> None:
        if graceful:
            self._problems.append(slot.shut_down())
        else:
            slot.stop()

    # Starting

    def _add(self, index: int) -> Slot:
        slot = self._active[index] = self._create(index, self._next_number)
        self._next_number += 1
        self.all.append(slot)
        return slot

    def _start(self, slots: list[Slot]) -> None:
        for slot in slots:
            threading.Thread(target=self._open, args=(slot,), daemon=True).start()

    def _open(self, slot: Slot) -> None:
        try:
            slot.start()
        except SlotUnusableError as error:
            self.mark_failed(slot, error.failure)
        except SlotStoppedError:
            self._remove(slot)
        except Exception as error:  # noqa: BLE001  after any error, a lease must not wait for this slot
            self.mark_failed(slot, StartFailure("spawn", type(error).__name__, str(error), traceback.format_exc()))
        else:
            report = self._mark_ready(slot)
            self.release(slot)
            report()

    def _mark_ready(self, slot: Slot) -> Callable[[], None]:
        """Record that a slot is ready, and return a function that reports it."""
        with self._lock:
            self._ready.add(slot)
            return self._report(None) if self._is_active(slot) else lambda: None

    def _report(self, failure: StartFailure | None) -> Callable[[], None]:
        """Return a function that reports a slot; called with the lock held."""
        report = SlotReport(self._as_of, len(self._active), failure)
        if self._report_callback is not None:
            return partial(self._report_callback, report)
        self._unreported.append(report)
        return lambda: None

    # Retiring; all but _shut_down and _remove are called with the lock held

    def _retire(self, index: int) -> None:
        slot = self._active.pop(index)
        if slot in self._idle:
            self._idle.remove(slot)
            self._leave(slot)
        elif slot not in self._ready:
            slot.stop()
        elif (recall := self._busy.get(slot)) is not None:
            recall.request(at_once=False)

    def _is_active(self, slot: Slot) -> bool:
        return slot in self._active.values()

    def _deactivate(self, slot: Slot) -> None:
        self._active = {index: other for index, other in self._active.items() if other is not slot}

    def _leave(self, slot: Slot) -> None:
        """Shut down the child of a retired slot, on a thread of its own."""
        thread = self._leaving[slot] = threading.Thread(target=self._shut_down, args=(slot,), daemon=True)
        thread.start()

    def _shut_down(self, slot: Slot) -> None:
        with suppress(SlotStoppedError):
            slot.raise_if_stopping()  # it was retired while it became ready
            self._problems.append(slot.shut_down("retired"))
        self._remove(slot)

    def _remove(self, slot: Slot) -> None:
        with self._lock:
            self.all.remove(slot)
            self._ready.discard(slot)
            self._leaving.pop(slot, None)
