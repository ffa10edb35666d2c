"""Tells somebody who may be slow, or away, on a thread of its own: neither a run nor its end waits for a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context


class BackgroundPublisher:
    """Does things one after another, in the order they came; of a kind that still waits only the newest.

    Args:
        name: Of the thread; it has the context variables of whoever made this.
        warned: Called, on that thread, with what went wrong: what is told of a run is not worth the run's end.
    """

    def __init__(self, name: str, warned: Callable[[str], None]) -> None:
        self._name, self._warned = name, warned
        self._context = copy_context()
        self._waiting: dict[str, Callable[[], object]] = {}  # by kind
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_over = self._is_given_up = False

    def do(self, kind: str, call: Callable[[], object]) -> None:
        """Have *call* done, in the place of one of its kind that has not been begun; nothing is waited for."""
        with self._changed:
            if self._is_over:
                return
            self._waiting[kind] = call
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._work,), name=self._name, daemon=True)
            self._thread.start()

    def end(self, seconds: float) -> bool:
        """Wait until all is done, *seconds* at most; what is not is given up, and False returned."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        with self._changed:
            self._is_given_up = self._thread.is_alive()
            self._waiting.clear()
        return not self._is_given_up

    def _work(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  whatever it was, it is told; given up, it may fail as it likes
                if not self._is_given_up:
                    self._warned(f"{type(error).__name__}: {error}")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))
