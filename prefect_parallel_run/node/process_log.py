"""Records when a node's children start, become ready and exit, and why. Keeps events in memory; node_log.py writes them."""

from __future__ import annotations

import queue
import threading
import time
from operator import itemgetter
from typing import Any


class ProcessLog:
    """All children of a node. May be used from any thread; never waits for a disk."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._living: dict[str, ProcessRecord] = {}  # by process
        self._changed = threading.Condition()

    @property
    def living(self) -> list[ProcessRecord]:
        """Return the children that have not exited."""
        with self._changed:
            return list(self._living.values())

    def add(self, process: str, pid: int, slot: int | None) -> ProcessRecord:
        """Record a started child.

        Args:
            process: Name of the child.
            pid: Process id.
            slot: Slot that it works in; None for a standby child.
        """
        record = ProcessRecord(self, process, pid, slot)
        with self._changed:
            self._living[process] = record
            self.add_event("started", process, pid=pid, slot=slot)
        return record

    def remove(self, record: ProcessRecord, reason: str, status: int | None) -> None:
        """Record that a child has exited; only the first call counts."""
        with self._changed:
            if self._living.pop(record.process, None) is not None:
                self.add_event("ended", record.process, slot=record.slot, reason=reason, exit=status)
            self._changed.notify_all()

    def add_event(self, event: str, process: str, **details: Any) -> None:
        """Queue an event for writing."""
        self._events.put({"event": event, "at": time.time(), "process": process, **details})

    def drain(self) -> list[dict[str, Any]]:
        """Return the events since the last call, in time order."""
        return sorted((self._events.get_nowait() for _ in range(self._events.qsize())), key=itemgetter("at"))

    def wait_until_all_exited(self, seconds: float) -> None:
        """Return when every child has exited, or after *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: not self._living, seconds)


class ProcessRecord:
    """One child.

    Attributes:
        process: Name of the child and of its files.
        pid: Process id.
        slot: Slot that it works in; None while it stands by.
    """

    def __init__(self, log: ProcessLog, process: str, pid: int, slot: int | None) -> None:
        self._log = log
        self.process, self.pid, self.slot = process, pid, slot

    def ready(self, slot: int, import_seconds: float, init_seconds: float) -> None:
        """Record that init() has returned and that the child works in *slot*."""
        self.slot = slot
        seconds = {"import_seconds": round(import_seconds, 3), "init_seconds": round(init_seconds, 3)}
        self._log.add_event("ready", self.process, slot=slot, **seconds)

    def files_lost(self, folder: str) -> None:
        """Record that the child left files in a folder of its working directory, which is deleted."""
        self._log.add_event("files_lost", self.process, folder=folder)

    def ended(self, reason: str, status: int | None) -> None:
        """Record the exit; the first reason counts.

        Args:
            reason: shut_down, stopped, timed_out, out_of_memory, died, start_failed, unneeded or retired.
            status: Exit status, or the negative number of the signal that killed the child.
        """
        self._log.remove(self, reason, status)
