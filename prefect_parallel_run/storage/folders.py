"""Lists the files below a folder in the order of their paths; large folders in a separate process.

Listing calls stat() for every file. Each call releases the interpreter's lock, so that in a process with other busy threads
most of the time would go into acquiring it again. The first files are listed in this process, for a quick start; the rest of a
large folder is listed by a subprocess that writes the files to its standard output.
"""

from __future__ import annotations

import heapq
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import IO, NamedTuple

from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_MOST_IN_PROCESS = 4_096  #: files, or names of one folder, that are listed in this process
_MOST_NAMES = 32_768  #: names of one folder in memory: about 3 MB
_SPILL_BLOCK = 1 << 11  #: bytes per read from every sorted run of that many names
_BLOCK = 512  #: files per block
_LENGTH = Struct("<q")  #: header of every block: its bytes; negative for an error message, 0 at the end


# Last on the path: modules beside our package must not shadow the standard library.
_PROGRAM = """
import sys
sys.path[:] = [*sys.path[1:], sys.argv[1]]
from prefect_parallel_run.storage.folders import write_listing
write_listing(sys.argv[2], sys.argv[3], sys.stdout.buffer)
"""


Identity = tuple[int, int]  #: device and inode of a folder


class ListedFile(NamedTuple):
    """A file or object as it was listed."""

    path: str  #: or URL
    size: int  #: bytes
    version: int | str  #: modification time, ns; for an object its ETag


class _TooManyError(Exception):
    """A folder has more names than this process lists."""


def files_below(folder: str) -> Iterator[ListedFile]:
    """Yield the files below *folder* (which ends in a slash), in the order of their whole paths.

    Hidden files and those in run directories are skipped. Links to folders are followed, except those to a parent folder.

    Raises:
        InputError: Something cannot be read.
    """
    last = ""
    try:
        for number, file in enumerate(_walk(folder, "", _MOST_IN_PROCESS)):
            if number >= _MOST_IN_PROCESS:
                break
            yield file
            last = file.path
        else:
            return
    except _TooManyError:
        pass
    yield from _list_in_subprocess(folder, last)


def folders_below(folder: str, above: frozenset[Identity] = frozenset()) -> Iterator[str]:
    """Yield *folder* (which ends in a slash) and the folders below it that ``files_below`` visits, each with a slash.

    Args:
        folder: The top folder.
        above: Identities of the parent folders of *folder*.
    """
    identity = _identity(folder)
    if identity in above:
        return
    yield folder
    for name in _sorted_names(folder, None):
        if name[-1] == "/":
            yield from folders_below(folder + name, above | {identity})


def _identity(folder: str) -> Identity:
    """Return the identity of *folder*, which is the same for all links to it."""
    status = read_status(folder)
    return status.st_dev, status.st_ino


def read_status(path: str) -> os.stat_result:
    """Return the status of a file or folder; raises InputError."""
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder or a link to one; False for a circular link, which ``os.stat`` reports later."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(folder: str, after: str, most_names: int | None, above: frozenset[Identity] = frozenset()) -> Iterator[ListedFile]:
    """Yield the files below *folder* whose paths sort after *after*; raises _TooManyError for a folder with too many names.

    *above* are the parent folders of *folder*: following a link back to one of them would never end.
    """
    identity = _identity(folder)
    if identity in above:
        return
    for name in _sorted_names(folder, most_names):
        path = folder + name
        if path <= after and not (name[-1] == "/" and after.startswith(path)):
            continue
        if name[-1] == "/":
            yield from _walk(path, after, most_names, above | {identity})
            continue
        status = read_status(path)
        if stat.S_ISREG(status.st_mode):
            yield ListedFile(path, status.st_size, status.st_mtime_ns)


def _sorted_names(folder: str, most: int | None) -> Iterable[str]:
    """Return the names in *folder* in order, those of folders with a trailing slash.

    With its slash a folder sorts among its siblings exactly where the paths below it do. Memory is bounded: sorted runs of
    names are written to a temporary file and merged.
    """
    runs: list[Iterator[str]] = []
    names: list[str] = []
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or name == RUNS_FOLDER:
                        continue
                    names.append(f"{name}/" if _is_folder(entry) else name)
                    if most is not None and len(names) > most:
                        raise _TooManyError
                    if len(names) >= _MOST_NAMES:
                        file = file or stack.enter_context(tempfile.TemporaryFile())
                        runs.append(_spilled(names, file))
                        names = []
        except OSError as error:
            raise InputError(folder, f"cannot be read: {error.strerror}") from error
        names.sort()
        return _merged([*runs, iter(names)], stack.pop_all()) if runs else names


def _merged(runs: list[Iterator[str]], stack: ExitStack) -> Iterator[str]:
    """Merge sorted *runs*; closes their file, which is on the *stack*, after the last name."""
    with stack:
        yield from heapq.merge(*runs)


def _spilled(names: list[str], file: IO[bytes]) -> Iterator[str]:
    """Append the sorted *names* to a file, and return an iterator that reads them back."""
    names.sort()
    start = file.tell()
    file.write(b"\0".join(map(os.fsencode, names)))  # the only byte that no name contains
    file.flush()
    return _read_back(file.fileno(), start, file.tell())


def _read_back(descriptor: int, start: int, stop: int) -> Iterator[str]:
    rest = b""
    while block := os.pread(descriptor, min(_SPILL_BLOCK, stop - start), start):
        start += len(block)
        *whole, rest = (rest + block).split(b"\0")
        yield from map(os.fsdecode, whole)
    yield os.fsdecode(rest)


# In a subprocess


def _list_in_subprocess(folder: str, after: str) -> Iterator[ListedFile]:
    """Yield the same files as ``_walk``, listed by a subprocess."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(Path(__file__).parents[2]), folder, after]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as lister:
        assert lister.stdout is not None  # noqa: S101  for the type checker: stdout is a pipe
        try:
            while fields := _read_block(lister.stdout, folder):
                paths, sizes, versions = fields[::3], fields[1::3], fields[2::3]
                yield from map(ListedFile, paths, map(int, sizes), map(int, versions))
        finally:
            lister.kill()


def _read_block(source: IO[bytes], folder: str) -> list[str]:
    """Return the fields of the next block, [] at the end."""
    (length,) = _LENGTH.unpack(_read_exactly(source, _LENGTH.size, folder))
    text = os.fsdecode(_read_exactly(source, abs(length), folder))
    if length < 0:
        raise InputError(*json.loads(text))
    return text.split("\0") if length else []


def _read_exactly(source: IO[bytes], length: int, folder: str) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise InputError(folder, "cannot be listed: the listing process exited early")
    return data


def write_listing(folder: str, after: str, target: IO[bytes]) -> None:
    """Write the files below *folder* whose paths sort after *after*, in the format that ``_read_block`` reads."""
    files = _walk(folder, after, None)
    try:
        while block := list(islice(files, _BLOCK)):
            text = os.fsencode("\0".join([f"{path}\0{size}\0{version}" for path, size, version in block]))
            target.write(_LENGTH.pack(len(text)) + text)
            target.flush()
        target.write(_LENGTH.pack(0))
    except InputError as error:
        message = os.fsencode(json.dumps(error.args))
        target.write(_LENGTH.pack(-len(message)) + message)
    target.flush()
