"""Recalls the mini-batches of a running lease that have not started; the thread that runs the lease answers."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress


class RecallRequest:
    """A request and its one answer. Any thread may make it; the thread that runs the lease answers."""

    def __init__(self, lease: int = 0) -> None:
        self.lease = lease
        self._requested = threading.Event()
        self._answer: Future[int] = Future()
        self.is_urgent = False  #: the running mini-batch is no longer needed either

    def request(self, *, at_once: bool) -> Future[int]:
        """Make the request; the future gives the number of the first returned mini-batch."""
        self.is_urgent = self.is_urgent or at_once
        self._requested.set()
        return self._answer

    @property
    def is_pending(self) -> bool:
        """True while the request awaits its answer."""
        return self._requested.is_set() and not self._answer.done()

    @property
    def is_answered(self) -> bool:
        """True once answered: no further mini-batch of the lease may start."""
        return self._answer.done()

    def answer(self, first: int) -> None:
        """Return the mini-batches from *first* on: none of them has started or will. Only the first answer counts."""
        with suppress(InvalidStateError):
            self._answer.set_result(first)
