"""Which log files of processes that have ended are kept. Pure: no files."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

FIRST = 3  #: processes of a slot, whose files are kept always: that is where trouble begins
NEWEST = 20  #: more of them
MOST_BYTES = 192 << 20  #: of these together; the oldest of the newest go to keep to it


class _Ended(NamedTuple):
    process: str
    size: int


class LogRetention:
    """The ended processes of one slot whose log files are kept: the first few and the newest, and not too many bytes of these.

    >>> shelf = LogRetention()
    >>> [shelf.put(f"p{number}", 10) for number in range(23)][-1], shelf.put("p23", 10)
    ([], ['p3'])
    """

    def __init__(self) -> None:
        self._first: list[_Ended] = []
        self._newest: deque[_Ended] = deque()
        self._bytes = 0

    def put(self, process: str, size: int) -> list[str]:
        """Add a process that has ended, and return those whose files should go.

        Args:
            process: Its name.
            size: Bytes of its files together.
        """
        self._bytes += size
        if len(self._first) < FIRST:
            self._first.append(_Ended(process, size))
            return []
        self._newest.append(_Ended(process, size))
        going: list[str] = []
        while len(self._newest) > NEWEST or (self._bytes > MOST_BYTES and len(self._newest) > 1):
            oldest = self._newest.popleft()
            self._bytes -= oldest.size
            going.append(oldest.process)
        return going
