"""Which files a path, folder, glob or URL stands for: each once, in the order of their paths, with size and version."""

from __future__ import annotations

import glob
import hashlib
import heapq
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO, NamedTuple

from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.datasets.stores import list_store
from prefect_parallel_run.errors import InputError

_HEARTBEAT_EVERY = 1_000  #: files
_MOST_NAMES = 32_768  #: of one folder, held in memory: 3 MB or so
_SPILL_BLOCK = 1 << 11  #: bytes read back at a time, of every run of so many names
_OWN_FOLDER = "_parallel_run"  # a run directory inside an input folder must never become input


class Listed(NamedTuple):
    """A file as it was found."""

    path: str
    size: int  #: bytes
    version: int | str  #: modification time, ns; of an object its ETag


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
        for number, listed in enumerate(list_files(self._paths)):
            if number % _HEARTBEAT_EVERY == 0:
                self._heartbeat()
            total.update(f"{listed.path}\0{listed.size}\0{listed.version}\n".encode("utf-8", "surrogateescape"))
            yield listed
        self.sha256 = total.hexdigest()

    def exhaust(self) -> str:
        """List everything and return the hash."""
        deque(self, maxlen=0)
        return self.sha256


def list_files(paths: Sequence[str]) -> Iterator[Listed]:
    """Yield the files that absolute *paths* stand for, sorted by path, each once.

    A folder stands for all files below it, except hidden ones; a link to a folder is not followed there.

    Raises:
        InputError: A path does not exist, or a folder cannot be read.
    """
    last = ""
    for listed in heapq.merge(*(_matches(path) for path in paths)):
        if listed.path != last:
            yield listed
        last = listed.path


def _matches(path: str) -> Iterator[Listed]:
    if is_remote(path):
        yield from map(Listed._make, list_store(path))
    elif os.path.isdir(path):
        yield from _walk(os.path.join(path, ""))
    elif os.path.exists(path):
        yield _look(path)
    elif glob.has_magic(path):
        for found in sorted(glob.iglob(path, recursive=True)):
            if os.path.isfile(found) and f"{os.sep}{_OWN_FOLDER}{os.sep}" not in found:
                yield _look(found)
    else:
        raise InputError(path, "does not exist")


def _look(path: str) -> Listed:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from error
    return Listed(path, status.st_size, status.st_mtime_ns)


def _walk(folder: str) -> Iterator[Listed]:
    """Yield the files below *folder* (which ends in a slash), in the order of their whole paths."""
    for name in _sorted_names(folder):
        path = folder + name
        if name.endswith("/"):
            yield from _walk(path)
            continue
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from error
        if stat.S_ISREG(status.st_mode):
            yield Listed(path, status.st_size, status.st_mtime_ns)


def _sorted_names(folder: str) -> Iterator[str]:
    """Yield the names in *folder* in order, those of folders with a slash.

    With its slash a folder sorts among its neighbours just where the paths below it do. Memory is bounded: beyond a number of
    names, sorted runs of them go to a temporary file and are merged.
    """
    with ExitStack() as stack:
        runs: list[Iterator[str]] = []
        names: list[str] = []
        file: IO[bytes] | None = None
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.name.startswith(".") or entry.name == _OWN_FOLDER:
                        continue
                    names.append(f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name)
                    if len(names) >= _MOST_NAMES:
                        file = file or stack.enter_context(tempfile.TemporaryFile())
                        runs.append(_spilled(names, file))
                        names = []
        except OSError as error:
            raise InputError(folder, f"cannot be read: {error.strerror}") from error
        names.sort()
        yield from heapq.merge(*runs, names) if runs else names


def _spilled(names: list[str], file: IO[bytes]) -> Iterator[str]:
    """Append *names*, sorted, to a file, and return an iterator that reads them back."""
    names.sort()
    start = file.tell()
    file.write(b"\0".join(map(os.fsencode, names)))  # the one byte that no name has in it
    file.flush()
    return _read_back(file.fileno(), start, file.tell())


def _read_back(descriptor: int, start: int, stop: int) -> Iterator[str]:
    rest = b""
    while block := os.pread(descriptor, min(_SPILL_BLOCK, stop - start), start):
        start += len(block)
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)
    yield os.fsdecode(rest)
