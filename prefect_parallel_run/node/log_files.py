"""The files that a node's processes append to, kept short and few.

A process has three: ``.stdout.txt``, ``.stderr.txt``, and ``.log`` for what it writes with EntryScript().logger. Whatever a
script prints, and however often its process is replaced, a slot of a node never has more in ``logs`` than

- ``shortening.MOST`` bytes in each file of the process that lives there, and what that prints between two looks (1/20 s apart
  while it prints much),
- ``kept_files.MOST_BYTES`` in those of ended processes, which are ``FIRST`` + ``NEWEST`` at most; their empty files go.

Spares that were never needed count as one slot more. What a script puts into ``logs`` under names of its own is its own affair.
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
    """Those of one node.

    Args:
        folder: They are in.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}  # by path, as of the last look
        self._left_out: dict[str, int] = {}  # bytes, by path
        self._shelves: defaultdict[int | None, LogRetention] = defaultdict(LogRetention)  # by slot
        self._ended: set[str] = set()  # processes whose files are kept
        self.grown = 0  #: bytes that all files have grown by since this was set to 0

    def path(self, process: str, ending: str) -> str:
        """Return the path of a process's file."""
        return f"{self._folder}/{process}{ending}"

    def shorten(self, process: str) -> ShortenedLog | None:
        """Cut the files of a process that have grown too long; return what came of that of its ``.log``.

        Raises:
            OSError: One cannot be cut.
        """
        cut: ShortenedLog | None = None
        for path in self._paths(process):  # the log is the last of them
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
        """Do the same for processes that have ended: what they have started may live on, and print."""
        for process in list(self._ended):
            self.shorten(process)

    def shelve(self, process: str, slot: int | None) -> None:
        """Take note that a process has ended: remove its empty files, and all of others when there are too many.

        Args:
            process: Its name.
            slot: That it worked in; None for a spare.
        """
        self._ended.add(process)
        size = 0
        for path in self._paths(process):
            with suppress(FileNotFoundError):
                if found := os.stat(path).st_size:  # noqa: PTH116  the same
                    size += found
                else:
                    os.unlink(path)  # noqa: PTH108  the same
        for going in self._shelves[slot].put(process, size):
            self._remove(going)

    def _remove(self, process: str) -> None:
        self._ended.discard(process)
        for path in self._paths(process):
            self._sizes.pop(path, None)
            self._left_out.pop(path, None)
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108  the same

    def _paths(self, process: str) -> Iterator[str]:
        return (self.path(process, ending) for ending in ENDINGS)
