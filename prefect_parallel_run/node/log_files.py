"""The log files of a node's processes, limited in size and number.

A process has three: ``.stdout.txt``, ``.stderr.txt``, and ``.log`` for EntryScript().logger. However much a script prints, and
however often its process is replaced, a slot of a node has at most the following in ``logs``:

- ``log_rotation.MOST`` bytes in each file of the living process, plus its output between two polls (1/20 s apart while it
  prints a lot),
- ``log_retention.MOST_BYTES`` in the files of ended processes, ``FIRST`` + ``NEWEST`` of them at most; empty files are removed.

Unused standby children count as one more slot. Files that a script creates in ``logs`` itself are not limited.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

from prefect_parallel_run.node.log_retention import LogRetention
from prefect_parallel_run.node.log_rotation import MOST, ShortenedLog, shorten

ENDINGS = (".stdout.txt", ".stderr.txt", ".log")


class LogFiles:
    """The log files of one node.

    Args:
        folder: Folder of the files.
    """

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
        """Remove the empty files of an ended process, and all files of older ones when there are too many.

        Args:
            process: Name of the process.
            slot: Slot that it worked in; None for an unused standby child.
        """
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
