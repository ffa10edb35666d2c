"""Watchdog: closes a node when its flow process stops sending keep-alives. Workers of a shared cluster outlive the step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE = 40.0  #: s without a keep-alive from the flow process
EVERY = 5.0  #: s between two keep-alives
_POLL_INTERVAL = 1.0  #: s


class Watchdog:
    """Calls *on_timeout*, once, after *patience* seconds without ``reset``.

    Args:
        on_timeout: Closes the node; called on the watchdog's thread.
        patience: Seconds.
    """

    def __init__(self, on_timeout: Callable[[], None], patience: float = PATIENCE) -> None:
        self._on_timeout, self._patience = on_timeout, patience
        self._last_reset = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="keep-node", daemon=True).start()

    def reset(self) -> None:
        """Record a keep-alive."""
        self._last_reset = time.monotonic()

    def stop(self) -> None:
        """Stop watching; the node was closed in the usual way."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(_POLL_INTERVAL, self._patience / 4)):
            if time.monotonic() - self._last_reset > self._patience:
                self._on_timeout()
                return
