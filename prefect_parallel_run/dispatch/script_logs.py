"""What the scripts have logged, as it comes from the nodes: each message once, and no more than a run's log can bear."""

from __future__ import annotations

import logging
import queue
from typing import NamedTuple

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.node.script_lines import LogBatch

_IN_ALL = 1_000  #: messages of a run


class ScriptLine(NamedTuple):
    """A message of an entry script; it may have several lines."""

    level: int  #: of the module logging
    process: str
    text: str


class ScriptLogCollector:
    """Those of one run. A node tells in numbered parcels; its last word repeats what may still be on its way."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[LogBatch] = queue.SimpleQueue()
        self._last: dict[str, int] = {}  # number of the last parcel, by node
        self._left_out_there: dict[str, int] = {}  # lines, by node
        self._left_out_here = 0
        self._allowance = RateLimiter(None, _IN_ALL)

    def hear(self, said: LogBatch) -> None:
        """Take what a node says; on any thread."""
        self._said.put(said)

    def take(self) -> list[ScriptLine]:
        """Return what should be told now; on the thread that tells it."""
        found: list[ScriptLine] = []
        for _ in range(self._said.qsize()):
            said = self._said.get_nowait()
            node = said["node"]
            if said["number"] <= self._last.get(node, 0):
                continue
            self._last[node], self._left_out_there[node] = said["number"], said["left_out"]
            for line in (ScriptLine(*given) for given in said["lines"]):
                if self._allowance.admits(0.0, is_urgent=line.level >= logging.WARNING):
                    found.append(line)
                else:
                    self._left_out_here += line.text.count("\n") + 1
        return found

    @property
    def left_out(self) -> int:
        """Return the lines that are only in the files; those of a node that was lost lately may be missing."""
        return self._left_out_here + sum(self._left_out_there.values())
