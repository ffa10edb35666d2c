"""Work that goes on in a thread of its own while the run's thread does something else, and gives up when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

from typing_extensions import Self

T = TypeVar("T")
_GLANCE = 0.1  #: s between two heartbeats while somebody waits
_STOPPING = 5.0  #: s for the work to notice that nobody wants it any more


class Cancelled(BaseException):
    """Nobody waits for the work any more."""


class Background(Generic[T]):
    """Runs *work* in a thread, from ``start`` or ``wait`` on.

    *work* is given a heartbeat to call now and then, which raises when nobody wants the work any more.
    """

    def __init__(self, name: str, work: Callable[[Callable[[], None]], T]) -> None:
        self._unwanted = threading.Event()
        self._outcome: Future[T] = Future()
        self._thread = threading.Thread(target=self._do, args=(work,), name=name, daemon=True)

    def start(self) -> Self:
        """Begin the work now, before anybody waits for it."""
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C may come when the thread runs already
            self._unwanted.set()
            raise
        return self

    def is_over(self) -> bool:
        """True once the work is done; raises what it raised."""
        if not self._outcome.done():
            return False
        self._outcome.result()
        return True

    def wait(self, check_cancelled: Callable[[], None]) -> T:
        """Return what the work returns; *check_cancelled* is called meanwhile. When it raises, or on Ctrl-C, the work stops.

        Work that was not started yet starts here, where no Ctrl-C can leave it running.
        """
        try:
            if self._thread.ident is None:
                self.start()
            while not wait_for([self._outcome], timeout=_GLANCE).done:
                check_cancelled()
        except BaseException:  # Ctrl-C may come in the wait itself
            self.stop()
            raise
        return self._outcome.result()

    def stop(self) -> None:
        """Have the work end; it is given some seconds."""
        self._unwanted.set()
        wait_for([self._outcome], timeout=_STOPPING)

    def _do(self, work: Callable[[Callable[[], None]], T]) -> None:
        try:
            self._outcome.set_result(work(self._check_cancelled))
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            self._outcome.set_exception(error)

    def _check_cancelled(self) -> None:
        if self._unwanted.is_set():
            raise Cancelled


def both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    """Return what calls one after the other."""

    def check_cancelled() -> None:
        first()
        second()

    return check_cancelled
