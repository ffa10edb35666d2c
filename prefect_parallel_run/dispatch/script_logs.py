"""Collects log messages of entry scripts from the nodes: deduplicated and rate-limited."""

from __future__ import annotations

import logging
import queue

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.node.log_tail import LogBatch
from prefect_parallel_run.runs.events import ScriptLogged

_MAX_MESSAGES = 1_000  #: messages per run


class ScriptLogCollector:
    """Collects the log messages of one run. Nodes send numbered batches; the final one repeats those that may be in transit."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[LogBatch] = queue.SimpleQueue()
        self._last: dict[str, int] = {}  # number of the latest batch, by node
        self._left_out_by_node: dict[str, int] = {}  # dropped lines, by node
        self._left_out = 0
        self._rate_limiter = RateLimiter(None, _MAX_MESSAGES)

    def add(self, batch: LogBatch) -> None:
        """Add a batch of a node; may be called from any thread."""
        self._batches.put(batch)

    def pop_all(self) -> list[ScriptLogged]:
        """Return the messages to forward now; called from the thread that forwards them."""
        lines: list[ScriptLogged] = []
        for _ in range(self._batches.qsize()):
            batch = self._batches.get_nowait()
            node = batch["node"]
            if batch["number"] <= self._last.get(node, 0):
                continue
            self._last[node], self._left_out_by_node[node] = batch["number"], batch["left_out"]
            for line in (ScriptLogged(*fields) for fields in batch["lines"]):
                if self._rate_limiter.admits(0.0, is_urgent=line.level >= logging.WARNING):
                    lines.append(line)
                else:
                    self._left_out += line.text.count("\n") + 1
        return lines

    @property
    def left_out(self) -> int:
        """Return the number of lines that were not forwarded; recent ones of a lost node may be missing."""
        return self._left_out + sum(self._left_out_by_node.values())
