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

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

ENDINGS = (".stdout.txt", ".stderr.txt", ".log")
FIRST = 3  #: first processes of a slot, whose files are always kept: they show the first error
NEWEST = 20  #: newest processes of a slot
MOST_BYTES = 192 << 20  #: of all their files; the oldest of the newest are removed to stay below it
MOST = 16 << 20  #: bytes; a longer file is cut
HEAD = 1 << 20  #: bytes kept of its beginning
TAIL = 7 << 20  #: bytes kept of its end


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
