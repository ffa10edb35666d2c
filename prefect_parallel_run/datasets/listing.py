"""Which files a path, folder, glob or URL stands for: each once, in the order of their paths, with size and version."""

from __future__ import annotations

import glob
import hashlib
import heapq
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import IO, NamedTuple

from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.datasets.stores import list_store
from prefect_parallel_run.errors import InputError

_FIRST_BLOCK, _BLOCK = (
    16,
    1_024,
)  #: files that are listed before the first of them is handed on: few at first, for a quick start
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
        files, size = list_files(self._paths), _FIRST_BLOCK
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


def list_files(paths: Sequence[str]) -> Iterator[Listed]:
    """Yield the files that absolute *paths* stand for, sorted by path, each once.

    A folder stands for all files below it, except hidden ones; a link to a folder is not followed there.

    Raises:
        InputError: A path does not exist, or a folder cannot be read.
    """
    if len(paths) == 1:
        yield from _matches(paths[0])
        return
    last = ""
    for listed in heapq.merge(*(_matches(path) for path in paths)):
        if listed.path != last:
            yield listed
        last = listed.path


def _matches(path: str) -> Iterator[Listed]:
    """Return the files that one path stands for, sorted, each once."""
    if is_remote(path):
        return map(Listed._make, list_store(path))
    if os.path.isdir(path):
        return _walk(os.path.join(path, ""))
    if os.path.exists(path):
        return iter([_look(path)])
    if glob.has_magic(path):
        return map(_look, filter(_is_input, sorted(set(glob.iglob(path, recursive=True)))))
    raise InputError(path, "does not exist")


def _is_input(path: str) -> bool:
    return os.path.isfile(path) and f"{os.sep}{_OWN_FOLDER}{os.sep}" not in path


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


def _sorted_names(folder: str) -> Iterable[str]:
    """Return the names in *folder* in order, those of folders with a slash.

    With its slash a folder sorts among its neighbours just where the paths below it do. Memory is bounded: beyond a number of
    names, sorted runs of them go to a temporary file and are merged.
    """
    runs: list[Iterator[str]] = []
    names: list[str] = []
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    name = entry.name
                    if name.startswith(".") or name == _OWN_FOLDER:
                        continue
                    names.append(f"{name}/" if entry.is_dir(follow_symlinks=False) else name)
                    if len(names) >= _MOST_NAMES:
                        file = file or stack.enter_context(tempfile.TemporaryFile())
                        runs.append(_spilled(names, file))
                        names = []
        except OSError as error:
            raise InputError(folder, f"cannot be read: {error.strerror}") from error
        names.sort()
        return _merged([*runs, iter(names)], stack.pop_all()) if runs else names


def _merged(runs: list[Iterator[str]], stack: ExitStack) -> Iterator[str]:
    """Yield what *runs* hold, in order; their file, on the *stack*, is closed behind the last."""
    with stack:
        yield from heapq.merge(*runs)


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
