"""Collects the log lines of EntryScript().logger for Prefect's log: rate-limited, each line once, as plain values."""

from __future__ import annotations

import logging
from typing import Any

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.node.log_rotation import ShortenedLog
from prefect_parallel_run.node.log_tail import Record, Tail

PER_SECOND = 20.0  #: messages of a node
IN_ALL = 1_000  #: messages of a node

#: node, number (of the batch, from 1), lines ([level, process, text] each), left_out (lines so far)
LogBatch = dict[str, Any]


class ScriptLines:
    """The log lines of one node. It belongs to one thread.

    Args:
        node: Name of the node.
        level: Level of the logging module; lower ones are dropped.
    """

    def __init__(self, node: str, level: int) -> None:
        self._node, self._level = node, level
        self._tails: dict[str, Tail] = {}  # by process
        self._rate_limiter = RateLimiter(PER_SECOND, IN_ALL)
        self._lines: list[tuple[int, str, str]] = []
        self._left_out = self._reported_left_out = 0
        self._number = 0

    def read(self, process: str, path: str, now: float) -> None:
        """Read the lines that a process has logged since the last call; *now* is monotonic, s."""
        tail = self._tails.get(process)
        if tail is None:
            tail = self._tails[process] = Tail(path)
        self._add(process, *tail.read(), now)

    def finish(self, process: str, path: str, now: float) -> None:
        """Read the remaining lines of an ended process."""
        tail = self._tails.pop(process, None) or Tail(path)
        self._add(process, *tail.finish(), now)

    def note_cut(self, process: str, cut: ShortenedLog) -> None:
        """Adjust to a cut of a process's log, made right after it was read."""
        if (tail := self._tails.get(process)) is not None:
            tail.note_cut(cut.seen, cut.end)

    def add(self, level: int, text: str) -> None:
        """Add a message of the node itself."""
        self._lines.append((level, self._node, text))

    def drain(self) -> LogBatch | None:
        """Return the lines since the last call, or None."""
        if not self._lines and self._left_out == self._reported_left_out:
            return None
        lines, self._lines, self._reported_left_out = self._lines, [], self._left_out
        self._number += 1
        return {"node": self._node, "number": self._number, "lines": lines, "left_out": self._left_out}

    def _add(self, process: str, records: list[Record], skipped: int, now: float) -> None:
        self._left_out += skipped
        for record in records:
            if record.level < self._level:
                continue
            if self._rate_limiter.admits(now, is_urgent=record.level >= logging.WARNING):
                self._lines.append((record.level, process, record.text))
            else:
                self._left_out += record.lines
