"""Follows the logs of EntryScript().logger: joins lines to records, and collects each record once for Prefect's log.

A record is collected when it is complete; the number of records is limited.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any, BinaryIO, NamedTuple

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.node.log_files import ShortenedLog

_HEADER = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ (Level \d+|\S+) ?")  # written by child/main_loop.py
_LEVELS = {b"DEBUG": 10, b"INFO": 20, b"WARNING": 30, b"ERROR": 40, b"CRITICAL": 50}
_LONGEST = 4_000  #: bytes of a record that are returned
_PIECE = 16 << 10  #: bytes parsed per poll; of further bytes only the lines are counted
_BLOCK = 1 << 20
PER_SECOND = 20.0  #: messages of a node
IN_ALL = 1_000  #: messages of a node
#: node, number (of the batch, from 1), lines ([level, process, text] each), left_out (lines so far)
LogBatch = dict[str, Any]


class Record(NamedTuple):
    """One log call of the script."""

    level: int  #: as in the logging module
    text: str
    lines: int


class Records:
    r"""Joins lines to records. An incomplete last line, and the last record, wait for more data.

    >>> records = Records()
    >>> records.feed(b"2025-01-01T00:00:00.000Z 7 ERROR no\nTraceback\n2025-01-01T00:00:01.000Z 7 INFO yes\n")
    [Record(level=40, text='no\nTraceback', lines=2)]
    >>> records.flush()
    [Record(level=20, text='yes', lines=1)]
    """

    def __init__(self) -> None:
        self._level = logging.INFO
        self._text = bytearray()  # of the record that may continue
        self._lines = 0  # of that record; 0: there is none
        self._partial_line = b""
        self._is_mid_record = False  # the next lines belong to a record whose beginning was skipped
        self.unseen = 0  #: lines of such records

    def feed(self, data: bytes) -> list[Record]:
        """Add *data* and return the records that are now complete."""
        *lines, partial_line = (self._partial_line + data).split(b"\n")
        self._partial_line = partial_line[: 2 * _LONGEST]
        return [record for line in lines for record in self._add(line)]

    def flush(self) -> list[Record]:
        """Return the pending record, because no data followed for a while or none will."""
        if not self._lines:
            return []
        record = Record(self._level, self._text.decode("utf-8", "replace"), self._lines)
        self._text, self._lines = bytearray(), 0
        return [record]

    def finish(self) -> list[Record]:
        """Return all remaining records; the log has ended, with or without a newline."""
        records = self.feed(b"\n") if self._partial_line else []
        return [*records, *self.flush()]

    def skip(self) -> list[Record]:
        """Return the pending record before a gap; the data after the gap may start in the middle of a record."""
        records = self.flush()
        self._partial_line, self._is_mid_record = b"", True
        return records

    def _add(self, line: bytes) -> list[Record]:
        header = _HEADER.match(line)
        if header is None and self._is_mid_record:
            self.unseen += 1
            return []
        records = self.flush() if header or not self._lines else []
        self._is_mid_record = False
        if header is not None:
            self._level = _level(header[1])
            line = line[header.end() :]
        elif not self._lines:
            self._level = logging.INFO
        if len(self._text) < _LONGEST:
            self._text += (b"\n" if self._lines else b"") + line
            if len(self._text) > _LONGEST:
                self._text[_LONGEST:] = " … continued in the file".encode()
        self._lines += 1
        return records


class Tail:
    """Follows one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._position = 0  # bytes read
        self._is_waiting = False  # the last record may be incomplete
        self._records = Records()

    def read(self) -> tuple[list[Record], int]:
        """Return the records added since the last call, and the number of lines that were skipped as too many.

        A record is held back until another follows, or until nothing was added between two calls.
        """
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116  several times a second: pathlib would double it
        except FileNotFoundError:
            return [], 0
        if size <= self._position:
            self._position = size  # it may have been emptied
            is_waiting, self._is_waiting = self._is_waiting, False
            return (self._records.flush() if is_waiting else []), 0
        self._is_waiting = True
        with open(self.path, "rb") as file:  # noqa: PTH123  pathlib would double its time
            file.seek(self._position)
            records = self._records.feed(data := file.read(_PIECE))
            self._position += len(data)
            skipped = self._skip(file, size)
        if skipped:
            records += self._records.skip()
        unseen, self._records.unseen = self._records.unseen, 0
        return records, skipped + unseen

    def finish(self) -> tuple[list[Record], int]:
        """Return the remaining records of an ended process."""
        records, skipped = self.read()
        return [*records, *self._records.finish()], skipped

    def note_cut(self, seen: int, end: int) -> None:
        """Adjust the position to a cut: the last of the file's *seen* bytes is now the one before *end*."""
        self._position = max(end - max(seen - self._position, 0), 0)

    def _skip(self, file: BinaryIO, size: int) -> int:
        """Skip to *size*, and return the number of lines skipped."""
        lines = 0
        while self._position < size and (block := file.read(min(_BLOCK, size - self._position))):
            lines += block.count(b"\n")
            self._position += len(block)
        return lines


def _level(name: bytes) -> int:
    return int(name[6:]) if name.startswith(b"Level ") else _LEVELS.get(name, logging.INFO)


class ScriptLines:
    """The log lines of one node, from *level* on. It belongs to one thread."""

    def __init__(self, node: str, level: int) -> None:
        self._node, self._level = node, level
        self._tails: dict[str, Tail] = {}  # by process
        self._rate_limiter = RateLimiter(PER_SECOND, IN_ALL)
        self._lines: list[tuple[int, str, str]] = []
        self._left_out = self._reported_left_out = 0
        self._number = 0

    def read(self, process: str, path: str, now: float) -> None:
        """Read the lines that a process has logged since the last call; *now* is monotonic, s."""
        tail = self._tails.setdefault(process, Tail(path))
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
