"""The files below a folder, in the order of their paths; of a large one listed in a process of its own.

To list is to ask the system about every file. Each question lets go of the interpreter's lock, so that in a process with other
busy threads most of the time would go into getting it back. The first files are looked at here, for a quick start; what then
shows to be large is gone on with by a program that writes what it finds to its standard output.
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

OWN_FOLDER = "_parallel_run"  #: a run directory inside an input folder must never become input
_HERE = 4_096  #: files, or names of one folder, that are looked at in this process
_MOST_NAMES = 32_768  #: of one folder, held in memory: 3 MB or so
_SPILL_BLOCK = 1 << 11  #: bytes read back at a time, of every run of so many names
_BLOCK = 512  #: files written together
_LENGTH = Struct("<q")  #: in front of every block: its bytes; negative for the words of an error, 0 at the end


# Last on the path: what lies beside our package must not come before the standard library.
_PROGRAM = """
import sys
sys.path[:] = [*sys.path[1:], sys.argv[1]]
from prefect_parallel_run.storage.folders import write_listing
write_listing(sys.argv[2], sys.argv[3], sys.stdout.buffer)
"""


Identity = tuple[int, int]  #: device and inode of a folder


class Listed(NamedTuple):
    """A file as it was found."""

    path: str
    size: int  #: bytes
    version: int | str  #: modification time, ns; of an object its ETag


class _ManyError(Exception):
    """There is more than is looked at here."""


def files_below(folder: str) -> Iterator[Listed]:
    """Yield the files below *folder* (which ends in a slash), in the order of their whole paths.

    Hidden ones and those of run directories are left out. A link to a folder is followed, except one that leads back to a
    folder above it.

    Raises:
        InputError: Something cannot be read.
    """
    last = ""
    try:
        for number, listed in enumerate(_walk(folder, "", _HERE)):
            if number >= _HERE:
                break
            yield listed
            last = listed.path
        else:
            return
    except _ManyError:
        pass
    yield from _elsewhere(folder, last)


def folders_below(folder: str, above: frozenset[Identity] = frozenset()) -> Iterator[str]:
    """Yield *folder* (which ends in a slash) and the folders below it that ``files_below`` looks into, each with a slash.

    Args:
        folder: Where to start.
        above: The folders on the way to *folder*.
    """
    identity = _identity(folder)
    if identity in above:
        return
    yield folder
    for name in _sorted_names(folder, None):
        if name[-1] == "/":
            yield from folders_below(folder + name, above | {identity})


def _identity(folder: str) -> Identity:
    """Return what tells *folder* from every other one, whatever links lead to it."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise InputError(folder, f"cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link in a circle is neither, and ``os.stat`` names it later."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(folder: str, after: str, most_names: int | None, above: frozenset[Identity] = frozenset()) -> Iterator[Listed]:
    """Yield the files below *folder* whose paths come after *after*; raises _ManyError for a folder of more names than that.

    The folders *above* are those on the way to *folder*: a link back to one of them would never end.
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
        try:
            status = os.stat(path)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from error
        if stat.S_ISREG(status.st_mode):
            yield Listed(path, status.st_size, status.st_mtime_ns)


def _sorted_names(folder: str, most: int | None) -> Iterable[str]:
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
                    if name.startswith(".") or name == OWN_FOLDER:
                        continue
                    names.append(f"{name}/" if _is_folder(entry) else name)
                    if most is not None and len(names) > most:
                        raise _ManyError
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


# In a process of its own


def _elsewhere(folder: str, after: str) -> Iterator[Listed]:
    """Yield what ``_walk`` does, of a process that lists."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(Path(__file__).parents[2]), folder, after]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as lister:
        assert lister.stdout is not None  # noqa: S101  a pipe was asked for; for the type checker
        try:
            while fields := _block(lister.stdout, folder):
                paths, sizes, versions = fields[::3], fields[1::3], fields[2::3]
                yield from map(Listed, paths, map(int, sizes), map(int, versions))
        finally:
            lister.kill()


def _block(source: IO[bytes], folder: str) -> list[str]:
    """Return the fields of the next block, none at the end."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size, folder))
    text = os.fsdecode(_exactly(source, abs(length), folder))
    if length < 0:
        raise InputError(*json.loads(text))
    return text.split("\0") if length else []


def _exactly(source: IO[bytes], length: int, folder: str) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise InputError(folder, "cannot be listed: the process that did it has ended")
    return data


def write_listing(folder: str, after: str, target: IO[bytes]) -> None:
    """Write the files below *folder* whose paths come after *after*, as ``_block`` reads them."""
    files = _walk(folder, after, None)
    try:
        while block := list(islice(files, _BLOCK)):
            text = os.fsencode("\0".join([f"{path}\0{size}\0{version}" for path, size, version in block]))
            target.write(_LENGTH.pack(len(text)) + text)
            target.flush()
        target.write(_LENGTH.pack(0))
    except InputError as error:
        words = os.fsencode(json.dumps(error.args))
        target.write(_LENGTH.pack(-len(words)) + words)
    target.flush()
