"""The newest records of a log that EntryScript().logger writes: lines that belong together, told once they are whole."""

from __future__ import annotations

import logging
import os
import re
from typing import BinaryIO, NamedTuple

_HEADER = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ (Level \d+|\S+) ?")  # child/life.py writes it
_LEVELS = {b"DEBUG": 10, b"INFO": 20, b"WARNING": 30, b"ERROR": 40, b"CRITICAL": 50}
_LONGEST = 4_000  #: bytes of a record that are told
_PIECE = 16 << 10  #: bytes looked at closely at once; of more in so short a time only the lines are counted
_BLOCK = 1 << 20


class Record(NamedTuple):
    """What the script has logged in one call."""

    level: int  #: of the module logging
    text: str
    lines: int


class Records:
    r"""Puts lines together to records. What is behind the last line end, and the last record, wait for what follows.

    >>> records = Records()
    >>> records.feed(b"2025-01-01T00:00:00.000Z 7 ERROR no\nTraceback\n2025-01-01T00:00:01.000Z 7 INFO yes\n")
    [Record(level=40, text='no\nTraceback', lines=2)]
    >>> records.end()
    [Record(level=20, text='yes', lines=1)]
    """

    def __init__(self) -> None:
        self._level = logging.INFO
        self._told = bytearray()  # of the record that may go on
        self._lines = 0  # of it; 0: there is none
        self._rest = b""  # behind the last line end
        self._is_amid = False  # what comes first belongs to a record whose beginning was not seen
        self.unseen = 0  #: lines of such records

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that *data* shows to be whole."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: 2 * _LONGEST]
        return [record for line in lines for record in self._add(line)]

    def end(self) -> list[Record]:
        """Return the record that was waiting: nothing has followed for a while, or nothing will."""
        if not self._lines:
            return []
        record = Record(self._level, self._told.decode("utf-8", "replace"), self._lines)
        self._told, self._lines = bytearray(), 0
        return [record]

    def finish(self) -> list[Record]:
        """Return all that is left: nothing will follow, not even a line end."""
        found = self.feed(b"\n") if self._rest else []
        return [*found, *self.end()]

    def skip(self) -> list[Record]:
        """Return the record that was waiting: some lines are left out now, and the next may begin amid a record."""
        done = self.end()
        self._rest, self._is_amid = b"", True
        return done

    def _add(self, line: bytes) -> list[Record]:
        header = _HEADER.match(line)
        if header is None and self._is_amid:
            self.unseen += 1
            return []
        done = self.end() if header or not self._lines else []
        self._is_amid = False
        if header is not None:
            self._level = _level(header[1])
            line = line[header.end() :]
        elif not self._lines:
            self._level = logging.INFO
        if len(self._told) < _LONGEST:
            self._told += (b"\n" if self._lines else b"") + line
            if len(self._told) > _LONGEST:
                self._told[_LONGEST:] = " … it goes on in the file".encode()
        self._lines += 1
        return done


class Tail:
    """Follows one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._at = 0  # bytes read
        self._is_waiting = False  # what was read may not be whole
        self._records = Records()

    def read(self) -> tuple[list[Record], int]:
        """Return the records that have come since the last call, and how many lines were not looked at since too many came.

        A record is held back until another follows, or until nothing has come between two calls.
        """
        try:
            size = os.stat(self.path).st_size  # noqa: PTH116  several times a second: pathlib would double it
        except FileNotFoundError:
            return [], 0
        if size <= self._at:
            self._at = size  # it may have been emptied
            is_waiting, self._is_waiting = self._is_waiting, False
            return (self._records.end() if is_waiting else []), 0
        self._is_waiting = True
        with open(self.path, "rb") as file:  # noqa: PTH123  the same
            file.seek(self._at)
            found = self._records.feed(data := file.read(_PIECE))
            self._at += len(data)
            skipped = self._skip(file, size)
        if skipped:
            found += self._records.skip()
        unseen, self._records.unseen = self._records.unseen, 0
        return found, skipped + unseen

    def finish(self) -> tuple[list[Record], int]:
        """Return what is left; the process has ended."""
        found, skipped = self.read()
        return [*found, *self._records.finish()], skipped

    def note_cut(self, seen: int, end: int) -> None:
        """Take note that the file was cut: the last of the *seen* bytes that it had now lies before *end*."""
        self._at = max(end - max(seen - self._at, 0), 0)

    def _skip(self, file: BinaryIO, size: int) -> int:
        """Pass over what lies before *size*, and return the lines there."""
        lines = 0
        while self._at < size and (block := file.read(min(_BLOCK, size - self._at))):
            lines += block.count(b"\n")
            self._at += len(block)
        return lines


def _level(name: bytes) -> int:
    return int(name[6:]) if name.startswith(b"Level ") else _LEVELS.get(name, logging.INFO)
