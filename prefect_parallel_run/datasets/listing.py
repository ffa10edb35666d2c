"""Which files a path, folder, glob or URL stands for: each once, in the order of their paths, with size and version."""

from __future__ import annotations

import glob
import hashlib
import heapq
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice

from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.datasets.folders import OWN_FOLDER, Listed, files_below, folders_below
from prefect_parallel_run.datasets.stores import list_store
from prefect_parallel_run.errors import InputError

# Files that are listed before the first of them is handed on: few at first, for a quick start.
_FIRST_BLOCK, _BLOCK = 16, 1_024


class Listing:
    """The files that absolute *paths* stand for, listed anew by every iteration.

    Args:
        paths: Of one dataset.
        heartbeat: Called now and then while files are listed; raises to stop.
    """

    def __init__(self, paths: Sequence[str], heartbeat: Callable[[], None] = lambda: None) -> None:
        self._paths, self._heartbeat = paths, heartbeat
        self.sha256 = ""  #: over path, size and version of every file, in order; of the newest listing that went to its end

    def __iter__(self) -> Iterator[Listed]:
        total = hashlib.sha256()
        size = _FIRST_BLOCK
        with closing(list_files(self._paths)) as files:  # when the heartbeat raises too: it may be a process that lists
            while block := list(islice(files, size)):
                self._heartbeat()
                lines = "".join([f"{path}\0{size}\0{version}\n" for path, size, version in block])
                total.update(lines.encode("utf-8", "surrogateescape"))
                yield from block
                size = min(2 * size, _BLOCK)
        self.sha256 = total.hexdigest()

    def exhaust(self) -> str:
        """List everything and return the hash."""
        deque(self, maxlen=0)
        return self.sha256


def list_files(paths: Sequence[str]) -> Generator[Listed, None, None]:
    """Yield the files that absolute *paths* stand for, sorted by path, each once.

    A folder stands for all files below it, except hidden ones; links to folders are followed, in a glob's ``**`` too.

    Raises:
        InputError: A path does not exist, or a folder cannot be read.
    """
    if len(paths) == 1:
        yield from _matches(paths[0])
        return
    last = ""
    with ExitStack() as stack:
        for listed in heapq.merge(*(stack.enter_context(closing(_matches(path))) for path in paths)):
            if listed.path != last:
                yield listed
            last = listed.path


def _matches(path: str) -> Generator[Listed, None, None]:
    """Yield the files that one path stands for, sorted, each once."""
    if is_remote(path):
        yield from map(Listed._make, list_store(path))
    elif os.path.isdir(path):
        yield from files_below(os.path.join(path, ""))
    elif os.path.exists(path):
        yield _look(path)
    elif glob.has_magic(path):
        yield from map(_look, filter(_is_input, sorted(set(_expanded(path)))))
    else:
        raise InputError(path, "does not exist")


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the paths that match *pattern*.

    ``**`` goes through the folders that the listing of a folder goes through: ``glob`` would follow a link that leads back to
    a folder above it as often as the system lets it.
    """
    segments = pattern.replace("/**/**", "/**").split(os.sep)
    if "**" not in segments:
        yield from glob.iglob(pattern)
        return
    number = segments.index("**")
    head, tail = os.sep.join(segments[:number]), os.sep.join(segments[number + 1 :])
    for top in glob.iglob(os.path.join(head, "")):
        for folder in folders_below(top):
            yield from glob.iglob(f"{glob.escape(folder)}*") if not tail else _expanded(glob.escape(folder) + tail)


def _is_input(path: str) -> bool:
    return os.path.isfile(path) and f"{os.sep}{OWN_FOLDER}{os.sep}" not in path


def _look(path: str) -> Listed:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from error
    return Listed(path, status.st_size, status.st_mtime_ns)
