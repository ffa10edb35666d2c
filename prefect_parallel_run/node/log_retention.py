"""Decides which ended processes keep their log files. Pure: no files."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

FIRST = 3  #: first processes of a slot, whose files are always kept: they show the first error
NEWEST = 20  #: newest processes of a slot
MOST_BYTES = 192 << 20  #: of all their files; the oldest of the newest are removed to stay below it


class _Ended(NamedTuple):
    process: str
    size: int


class LogRetention:
    """The ended processes of one slot whose log files are kept: the first few and the newest, within a size limit.

    >>> retention = LogRetention()
    >>> [retention.add(f"p{number}", 10) for number in range(23)][-1], retention.add("p23", 10)
    ([], ['p3'])
    """

    def __init__(self) -> None:
        self._first: list[_Ended] = []
        self._newest: deque[_Ended] = deque()
        self._bytes = 0

    def add(self, process: str, size: int) -> list[str]:
        """Add an ended process, and return the processes whose files should be removed.

        Args:
            process: Name of the process.
            size: Total bytes of its files.
        """
        self._bytes += size
        if len(self._first) < FIRST:
            self._first.append(_Ended(process, size))
            return []
        self._newest.append(_Ended(process, size))
        expired: list[str] = []
        while len(self._newest) > NEWEST or (self._bytes > MOST_BYTES and len(self._newest) > 1):
            oldest = self._newest.popleft()
            self._bytes -= oldest.size
            expired.append(oldest.process)
        return expired
