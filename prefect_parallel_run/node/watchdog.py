"""Ends a node whose flow process is gone, on a worker that stays: a cluster that is not ours does not end with the step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE = 40.0  #: s without a word from the flow process
EVERY = 5.0  #: s between two of its words
_LOOK = 1.0  #: s


class Watchdog:
    """Calls *end*, once, when nobody has called ``keep`` for *patience* seconds.

    Args:
        end: Ends the node; called on a thread of its own.
        patience: Seconds.
    """

    def __init__(self, end: Callable[[], None], patience: float = PATIENCE) -> None:
        self._end, self._patience = end, patience
        self._kept = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="keep-node", daemon=True).start()

    def keep(self) -> None:
        """Take note that the node is still wanted."""
        self._kept = time.monotonic()

    def stop(self) -> None:
        """Watch no longer; the node has been ended in the usual way."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(_LOOK, self._patience / 4)):
            if time.monotonic() - self._kept > self._patience:
                self._end()
                return
