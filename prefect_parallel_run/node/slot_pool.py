"""The slots of a node: which there are, which of them work, and how there come to be more or fewer while leases go on."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.idle import IdleSlots
from prefect_parallel_run.node.recall import Recall
from prefect_parallel_run.node.slot import Slot, SlotStoppedError, SlotUnusableError


class Resized(NamedTuple):
    """What slots a node has."""

    slots: int  #: that work, or start
    ready: int  #: of these, whose process has started
    as_of: int  #: number of the resizing that led to it
    leaving: tuple[int, ...]  #: leases whose slots are retired, and go when they are done


class Slots:
    """The slots of one node.

    Every slot is in one of: starting, idle, at work, leaving, gone. Those that count have a place, from 0 on; one that is
    retired, or given up, has lost its place, and gets no lease any more.

    Args:
        make: Makes the slot for a place, with a number that none had before: what another has written there keeps its name.
        count: To begin with.
    """

    def __init__(self, make: Callable[[int, int], Slot], count: int) -> None:
        self._make = make
        self.all: list[Slot] = []  #: that have, or may have, a child
        self._places: dict[int, Slot] = {}
        self._ready: set[Slot] = set()  # whose first child has started
        self._at_work: dict[Slot, Recall] = {}  # of the lease that it runs
        self._leaving: dict[Slot, threading.Thread] = {}  # in shutdown()
        self._problems: list[str] = []  # there
        self._failures: queue.SimpleQueue[StartFailure] = queue.SimpleQueue()
        self._next_number = self._as_of = 0
        self._tell_ready: Callable[[int], None] | None = None
        self._untold = 0  # slots that became ready before anybody wanted to know
        self._is_closed = False
        self._lock = threading.Lock()  # of all this; taken before that of the idle ones
        self.idle = IdleSlots()
        self._start([self._add(place) for place in range(count)])

    def take(self, recall: Recall) -> Slot | None:
        """Return a slot for a lease, waiting for one; None when the lease is called back, or no slot will come."""
        while (slot := self.idle.take(recall)) is not None:
            with self._lock:
                if self._has_place(slot):
                    self._at_work[slot] = recall
                    return slot
                self._let_go(slot)  # it was retired just when it was taken
        return None

    def offer(self, slot: Slot) -> None:
        """Have a slot that has nothing to do serve the next lease; one that is retired goes."""
        with self._lock:
            self._at_work.pop(slot, None)
            if self._has_place(slot):
                self.idle.put(slot)
            else:
                self._let_go(slot)

    def give_up(self, slot: Slot, failure: StartFailure) -> None:
        """Take note that a slot has no child and cannot have one."""
        with self._lock:
            self._at_work.pop(slot, None)
            place = next((place for place, other in self._places.items() if other is slot), None)
            if place is None:  # retired: nobody counts on it
                return
            del self._places[place]
            is_last = not self._places
        self._failures.put(failure)
        if is_last:
            self.idle.close()

    def spare(self, slot: Slot) -> bool:
        """Count a slot out whose script asks for one process less; False for the last one, which is needed."""
        with self._lock:
            if len(self._places) == 1 and self._has_place(slot):
                return False
            self._places = {place: other for place, other in self._places.items() if other is not slot}
            return True

    def mark_exited(self, slot: Slot) -> None:
        """Take note that a slot that was counted out has no child any more."""
        with self._lock:
            self._at_work.pop(slot, None)
        self._forget(slot)

    def next_failure(self) -> StartFailure | None:
        """Return why a slot was given up, once per slot."""
        try:
            return self._failures.get_nowait()
        except queue.Empty:
            return None

    def count(self) -> tuple[int, int]:
        """Return the slots that count, none once all are closed, and the number of the last resizing."""
        with self._lock:
            return (0 if self._is_closed else len(self._places)), self._as_of

    def resize(self, count: int, number: int) -> Resized:
        """Start slots, or retire some, until there are *count*, and return at once; see ``Node.resize``."""
        fresh: list[Slot] = []
        with self._lock:
            if number > self._as_of:
                self._as_of = number
                if self._places and not self._is_closed:  # a node that has given up all has told so
                    for place in sorted(place for place in self._places if place >= count):
                        self._retire(place)
                    fresh = [self._add(place) for place in range(count) if place not in self._places]
            ready = sum(slot in self._ready for slot in self._places.values())
            leaving = tuple(recall.lease for slot, recall in self._at_work.items() if not self._has_place(slot))
            resized = Resized(len(self._places), ready, self._as_of, leaving)
        self._start(fresh)
        return resized

    def on_slot_ready(self, tell: Callable[[int], None]) -> None:
        """Have *tell* called for every slot that becomes ready, and for those that are, with the last resizing's number."""
        with self._lock:
            self._tell_ready, untold = tell, self._untold
        for _ in range(untold):
            tell(0)

    def close(self, *, graceful: bool) -> list[str]:
        """End all children, with shutdown() when *graceful*; return what went wrong in shutdown(), of those before too."""
        with self._lock:
            self._is_closed = True
            slots, leaving = [*self.all], {**self._leaving}
        ready = self.idle.close()
        ends: list[Callable[[], object]] = [
            (lambda slot=slot: self._problems.append(slot.shut_down())) if graceful and slot in ready else slot.stop  # type: ignore[misc]
            for slot in slots
            if not graceful or slot not in leaving
        ]
        threads = [threading.Thread(target=end) for end in ends]
        for thread in threads:
            thread.start()
        for thread in (*threads, *leaving.values()):
            thread.join()
        return [problem for problem in self._problems if problem]

    # Coming

    def _add(self, place: int) -> Slot:
        slot = self._places[place] = self._make(place, self._next_number)
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
            self.give_up(slot, error.failure)
        except SlotStoppedError:
            self._forget(slot)
        except Exception as error:  # noqa: BLE001  whatever it was, a lease must not wait for this slot
            self.give_up(slot, StartFailure("spawn", type(error).__name__, str(error), traceback.format_exc()))
        else:
            tell = self._note_ready(slot)
            self.offer(slot)
            tell()

    def _note_ready(self, slot: Slot) -> Callable[[], None]:
        """Take note that a slot is ready, and return what tells it."""
        with self._lock:
            self._ready.add(slot)
            tell, as_of = self._tell_ready, self._as_of
            if not self._has_place(slot):
                return lambda: None
            self._untold += tell is None
            return lambda: None if tell is None else tell(as_of)

    # Going

    def _retire(self, place: int) -> None:
        slot = self._places.pop(place)
        if self.idle.remove(slot):
            self._let_go(slot)
        elif slot not in self._ready:
            slot.stop()
        elif (recall := self._at_work.get(slot)) is not None:
            recall.ask(at_once=False)

    def _has_place(self, slot: Slot) -> bool:
        return slot in self._places.values()

    def _let_go(self, slot: Slot) -> None:
        """Have a slot that is retired end its child."""
        thread = self._leaving[slot] = threading.Thread(target=self._see_off, args=(slot,), daemon=True)
        thread.start()

    def _see_off(self, slot: Slot) -> None:
        with suppress(SlotStoppedError):
            slot.raise_if_stopping()  # it was retired just when it was ready
            self._problems.append(slot.shut_down("retired"))
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        with self._lock:
            self.all.remove(slot)
            self._ready.discard(slot)
            self._leaving.pop(slot, None)
