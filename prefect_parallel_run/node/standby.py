"""The spare of a node: a child started ahead, with the script imported, that takes the place of one that is killed.

It has imported the script but not called init(): a spare that is never used has called neither init() nor shutdown(), and
holds nothing that init() loads. It is no copy of a template process: forking is unsafe beside the threads of Arrow, OpenBLAS
or CUDA, and a script may count on being imported once in every process.
"""

from __future__ import annotations

import threading
import time

from prefect_parallel_run.node.child_startup import IMPORTING, WAITING, ChildFactory, Startup
from prefect_parallel_run.node.standby_count import SpareNeed

_GLANCE = 0.005  #: s between two looks at a spare that is taken
_STIR = 1.0  #: s for a spare to answer; one that is stopped, or swapped out, is worth no longer wait


class Spares:
    """At most one child of a node, started ahead and shared by the node's slots.

    The slots tend it while they watch their children: it has no thread of its own. Whatever befalls a spare that nobody has
    taken says nothing new, for the slot in need then starts a child of its own, which tells it.

    Args:
        starter: Of the node's children; None where they are not alike (each has a GPU of its own), and there is never a spare.
            One that the script's import has shown its GPU would be of no use to most slots, and hold memory of it.
        need: Says when there should be one.
    """

    def __init__(self, starter: ChildFactory | None, need: SpareNeed) -> None:
        self._starter, self._need = starter, need
        self._spare: Startup | None = None
        self._started = 0  # spares so far
        self._is_starting = self._is_stopped = False
        self._lock = threading.Lock()  # between the slots; never held while a process is started or ended

    def child_ended(self) -> None:
        """Note that a child of the node has died or was killed."""
        with self._lock:
            self._need.child_ended()

    def tend(self, seconds: float) -> None:
        """Start a spare when there should be one, and drop one that has failed.

        Args:
            seconds: How long the caller's mini-batch has been running.
        """
        if self._starter is None:
            return
        with self._lock:
            self._need.mini_batch_has_run(seconds)
            failed = self._take_failed()
            starts = self._need.is_there and self._spare is None and not (self._is_starting or self._is_stopped)
            if starts:
                self._is_starting = True
                self._started += 1
        if failed is not None:
            failed.end()
        if starts:
            self._start(self._starter)

    def take(self) -> Startup | None:
        """Return the spare for the caller to keep, in its init() or still importing the script; None when there is none.

        A spare that does not answer is ended, after a second.
        """
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return None
        spare.call_init()
        deadline = time.monotonic() + _STIR
        while not spare.look(_GLANCE) and spare.stage == WAITING and time.monotonic() < deadline:
            pass
        if spare.stage == WAITING or (spare.stage == IMPORTING and spare.failure is not None):
            spare.end()  # a child has ended meanwhile: it may have a successor
            return None
        return spare

    def stop(self) -> None:
        """End the spare, and start no other. May be called from any thread."""
        with self._lock:
            self._is_stopped = True
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def _take_failed(self) -> Startup | None:
        if self._spare is None or not self._spare.look(0):
            return None
        self._need.spare_failed()
        failed, self._spare = self._spare, None
        return failed

    def _start(self, starter: ChildFactory) -> None:
        try:
            spare: Startup | None = starter.start(f"spare.{self._started}")
        except OSError:
            spare = None
        with self._lock:
            self._is_starting = False
            if spare is None:
                self._need.spare_failed()
            elif not self._is_stopped:
                self._spare, spare = spare, None
        if spare is not None:
            spare.end()
