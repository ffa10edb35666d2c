"""The lives of a node's children: started, ready, ended and why. Writes nothing; who does takes the events from here."""

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
        """Return those that have not ended."""
        with self._changed:
            return list(self._living.values())

    def begin(self, process: str, pid: int, slot: int | None) -> ProcessRecord:
        """Take note of a child that has been started.

        Args:
            process: Its name.
            pid: Its number.
            slot: It works in; None for a spare.
        """
        life = ProcessRecord(self, process, pid, slot)
        with self._changed:
            self._living[process] = life
            self.tell("started", process, pid=pid, slot=slot)
        return life

    def end(self, life: ProcessRecord, reason: str, status: int | None) -> None:
        """Take note that a child has ended; only the first time counts."""
        with self._changed:
            if self._living.pop(life.process, None) is not None:
                self.tell("ended", life.process, slot=life.slot, reason=reason, exit=status)
            self._changed.notify_all()

    def tell(self, event: str, process: str, **facts: Any) -> None:
        """Add an event, to be written."""
        self._events.put({"event": event, "at": time.time(), "process": process, **facts})

    def take(self) -> list[dict[str, Any]]:
        """Return the events since the last call, in time order."""
        return sorted((self._events.get_nowait() for _ in range(self._events.qsize())), key=itemgetter("at"))

    def wait_for_all_ends(self, seconds: float) -> None:
        """Return when no child is left, or after *seconds*."""
        with self._changed:
            self._changed.wait_for(lambda: not self._living, seconds)


class ProcessRecord:
    """One child.

    Attributes:
        process: Its name, which its files have too.
        pid: Its number.
        slot: It works in; None while it is a spare.
    """

    def __init__(self, lives: ProcessLog, process: str, pid: int, slot: int | None) -> None:
        self._lives = lives
        self.process, self.pid, self.slot = process, pid, slot

    def is_ready(self, slot: int, import_seconds: float, init_seconds: float) -> None:
        """Take note that init() is done; the child works in *slot* from here on."""
        self.slot = slot
        seconds = {"import_seconds": round(import_seconds, 3), "init_seconds": round(init_seconds, 3)}
        self._lives.tell("ready", self.process, slot=slot, **seconds)

    def loses(self, folder: str) -> None:
        """Take note that it has ended with files in a folder of its working directory, which goes with it."""
        self._lives.tell("files_lost", self.process, folder=folder)

    def has_ended(self, reason: str, status: int | None) -> None:
        """Take note of the end; the first reason counts.

        Args:
            reason: shut_down, stopped, timed_out, out_of_memory, died, start_failed, unneeded or retired.
            status: Of its exit; minus the signal's number when one ended it.
        """
        self._lives.end(self, reason, status)
