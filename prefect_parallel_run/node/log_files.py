"""The log files of a node's processes, limited in size and number.

A process has three: ``.stdout.txt``, ``.stderr.txt``, and ``.log`` for EntryScript().logger. However much a script prints, and
however often its process is replaced, a slot of a node has at most the following in ``logs``:

- ``MOST`` bytes in each file of the living process, plus its output between two polls (1/20 s apart while it
  prints a lot),
- ``MOST_BYTES`` in the files of ended processes, ``FIRST`` + ``NEWEST`` of them at most; empty files are removed.

Unused standby children count as one more slot. Files that a script creates in ``logs`` itself are not limited.

A file is cut in place: its beginning and its end stay, with a line between them that says how much was cut. Writers must
have opened it for appending, so that their next write lands at the new end. Bytes written during the cut may be lost, or end
up above the line.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

from prefect_parallel_run._rate_limit import RateLimiter

ENDINGS = (".stdout.txt", ".stderr.txt", ".log")
FIRST = 3  #: first processes of a slot, whose files are always kept: they show the first error
NEWEST = 20  #: newest processes of a slot
MOST_BYTES = 192 << 20  #: of all their files; the oldest of the newest are removed to stay below it
MOST = 16 << 20  #: bytes; a longer file is cut
HEAD = 1 << 20  #: bytes kept of its beginning
TAIL = 7 << 20  #: bytes kept of its end
_HEADER = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ (Level \d+|\S+) ?")  # written by child/main_loop.py
_LEVELS = {b"DEBUG": 10, b"INFO": 20, b"WARNING": 30, b"ERROR": 40, b"CRITICAL": 50}
_LONGEST = 4_000  #: bytes of a record that are returned
_PIECE = 16 << 10  #: bytes parsed per poll; of further bytes only the lines are counted
_BLOCK = 1 << 20
PER_SECOND = 20.0  #: messages of a node
IN_ALL = 1_000  #: messages of a node
#: node, number (of the batch, from 1), lines ([level, process, text] each), left_out (lines so far)
LogBatch = dict[str, Any]


class LogFiles:
    """The log files of one node, all in *folder*."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}  # by path, at the last poll
        self._left_out: dict[str, int] = {}  # bytes, by path
        self._retention: defaultdict[int | None, LogRetention] = defaultdict(LogRetention)  # by slot
        self._ended: set[str] = set()  # ended processes whose files are kept
        self.grown = 0  #: bytes by which all files have grown since this was set to 0

    def path(self, process: str, ending: str) -> str:
        """Return the path of a process's file."""
        return f"{self._folder}/{process}{ending}"

    def shorten(self, process: str) -> ShortenedLog | None:
        """Cut the oversized files of a process; return the cut of its ``.log``, if it was cut.

        Raises:
            OSError: A file cannot be cut.
        """
        cut: ShortenedLog | None = None
        for path in self._paths(process):  # .log is the last of them
            cut = None
            try:
                size = os.stat(path).st_size  # noqa: PTH116  several times a second: pathlib would double it
            except FileNotFoundError:
                continue
            self.grown += max(size - self._sizes.get(path, 0), 0)
            self._sizes[path] = size
            if size > MOST:
                cut = shorten(path, self._left_out.get(path, 0))
            if cut is not None:
                self._left_out[path], self._sizes[path] = cut.left_out, cut.end
        return cut

    def shorten_ended(self) -> None:
        """Cut the files of ended processes too: processes that they started may still be printing."""
        for process in list(self._ended):
            self.shorten(process)

    def retire(self, process: str, slot: int | None) -> None:
        """Remove the empty files of an ended process of *slot* (None: an unused standby child), and those of surplus ones."""
        self._ended.add(process)
        size = 0
        for path in self._paths(process):
            with suppress(FileNotFoundError):
                if file_size := os.stat(path).st_size:  # noqa: PTH116  paths are strings here
                    size += file_size
                else:
                    os.unlink(path)  # noqa: PTH108  paths are strings here
        for expired in self._retention[slot].add(process, size):
            self._remove(expired)

    def _remove(self, process: str) -> None:
        self._ended.discard(process)
        for path in self._paths(process):
            self._sizes.pop(path, None)
            self._left_out.pop(path, None)
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  paths are strings here

    def _paths(self, process: str) -> Iterator[str]:
        return (self.path(process, ending) for ending in ENDINGS)


class LogRetention:
    """The ended processes of one slot whose log files are kept: the first few and the newest, within a size limit.

    >>> retention = LogRetention()
    >>> [retention.add(f"p{number}", 10) for number in range(23)][-1], retention.add("p23", 10)
    ([], ['p3'])
    """

    def __init__(self) -> None:
        self._newest: deque[tuple[str, int]] = deque()  # process, size
        self._count = self._bytes = 0

    def add(self, process: str, size: int) -> list[str]:
        """Add an ended process with *size* bytes of files, and return the processes whose files should be removed."""
        self._bytes += size
        self._count += 1
        if self._count > FIRST:
            self._newest.append((process, size))
        expired: list[str] = []
        while len(self._newest) > NEWEST or (self._bytes > MOST_BYTES and len(self._newest) > 1):
            oldest, oldest_size = self._newest.popleft()
            self._bytes -= oldest_size
            expired.append(oldest)
        return expired


class ShortenedLog(NamedTuple):
    """The result of a cut."""

    seen: int  #: size before the cut, bytes
    end: int  #: size after the cut, bytes: later lines are appended here
    left_out: int  #: bytes cut from the file so far, by all cuts


def shorten(path: str, left_out: int, most: int = MOST, head: int = HEAD, tail: int = TAIL) -> ShortenedLog | None:
    """Cut a file to *head* and *tail* bytes; return None when it does not exist or is not longer than *most* bytes.

    Args:
        path: Path of the file.
        left_out: Bytes removed by earlier cuts; 0 for none.
        most: Maximum size.
        head: Kept of its beginning.
        tail: Kept of its end.

    Raises:
        OSError: The file cannot be cut. When the disk is full it is cut, and its end may be lost.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        if size <= most:
            return None
        end = os.pread(descriptor, tail, size - tail)
        previous_line = len(_line(left_out)) if left_out else 0  # the line of the previous cut is removed by this one
        left_out += size - head - tail - previous_line
        os.ftruncate(descriptor, head)
        rest = memoryview(_line(left_out) + end)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        return ShortenedLog(size, os.lseek(descriptor, 0, os.SEEK_CUR), left_out)
    finally:
        os.close(descriptor)


def _line(left_out: int) -> bytes:
    return f"\n… {left_out} bytes left out here to limit the size of this log file …\n".encode()


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
