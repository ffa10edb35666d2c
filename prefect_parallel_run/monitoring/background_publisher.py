"""Calls a slow or unreachable server from a background thread, so that a run never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import copy_context


class BackgroundPublisher:
    """Runs calls one after another, in order of submission; a newer call of the same kind replaces a waiting one.

    Args:
        name: Name of the thread; it inherits the context variables of the caller.
        warned: Called on that thread with an error message; a failed call never fails the run.
    """

    def __init__(self, name: str, warned: Callable[[str], None]) -> None:
        self._name, self._warned = name, warned
        self._context = copy_context()
        self._waiting: dict[str, Callable[[], object]] = {}  # by kind
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_abandoned = False

    def submit(self, kind: str, call: Callable[[], object]) -> None:
        """Queue *call*, in place of a waiting one of the same kind; returns immediately."""
        with self._changed:
            if self._is_closed:
                return
            self._waiting[kind] = call
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._run,), name=self._name, daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> bool:
        """Wait at most *seconds* for the queued calls; returns False if some were abandoned."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        with self._changed:
            self._is_abandoned = self._thread.is_alive()
            self._waiting.clear()
        return not self._is_abandoned

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  any error becomes a warning; abandoned calls fail silently
                if not self._is_abandoned:
                    self._warned(f"{type(error).__name__}: {error}")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))
