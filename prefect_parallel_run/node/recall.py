"""How a lease at work is asked for what it has not begun, and by whom that is answered: the thread that runs it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress


class Recall:
    """The question, and its one answer. Asked from any thread; answered by the lease's own."""

    def __init__(self, lease: int = 0) -> None:
        self.lease = lease
        self._asked = threading.Event()
        self._answer: Future[int] = Future()
        self.is_urgent = False  #: what is running does not count any more either

    def ask(self, *, at_once: bool) -> Future[int]:
        """Ask; the answer is the number of the first mini-batch that is given back."""
        self.is_urgent = self.is_urgent or at_once
        self._asked.set()
        return self._answer

    @property
    def is_open(self) -> bool:
        """True when it was asked and not answered."""
        return self._asked.is_set() and not self._answer.done()

    @property
    def is_answered(self) -> bool:
        """True once it was answered: nothing more of the lease is to be begun."""
        return self._answer.done()

    def answer(self, first: int) -> None:
        """Say that nothing from mini-batch *first* on has been begun, nor will be. Only the first answer counts."""
        with suppress(InvalidStateError):
            self._answer.set_result(first)
