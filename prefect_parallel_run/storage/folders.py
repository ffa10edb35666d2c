"""Lists the files below a folder in the order of their paths; large folders in a separate process.

Listing calls stat() for every file. Each call releases the interpreter's lock, so that in a process with other busy threads
most of the time would go into acquiring it again. The first files are listed in this process, for a quick start; the rest of a
large folder is listed by a subprocess that writes the files to its standard output.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import IO, NamedTuple

from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_MOST_IN_PROCESS = 4_096  #: files, or names of one folder, that are listed in this process
_MOST_NAMES = 32_768  #: names of one folder in memory: about 3 MB
_SPILL_BLOCK = 1 << 11  #: bytes per read from every sorted run of that many names
FIRST_BLOCK = 16  #: files in the first block, for a quick start; every further block is twice as large, up to BLOCK
BLOCK = 512
_LENGTH = Struct("<q")  #: header of every block: its bytes; negative for an error message, 0 at the end
_LINE = re.compile(r"([^\0]*)\0(-?\d+)\0(-?\d+)\n")


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


class FileBlock(NamedTuple):
    """Consecutive listed files as columns: objects for single files would take most of the time of planning."""

    lines: str  #: path, size and version of every file, separated by null bytes, in one line each
    paths: list[str]
    sizes: list[str]  #: bytes, as JSON
    versions: list[str]  #: as JSON

    @classmethod
    def of_lines(cls, lines: str) -> FileBlock:
        """Return the block of local files with these *lines*."""
        if lines.count("\0") == 2 * lines.count("\n"):  # no path contains a newline
            fields = lines.replace("\n", "\0").split("\0")
            return cls(lines, fields[:-1:3], fields[1::3], fields[2::3])
        return cls(lines, *map(list, zip(*_LINE.findall(lines), strict=True)))

    @classmethod
    def of_files(cls, files: Iterable[ListedFile]) -> FileBlock:
        """Return the block of at least one file."""
        paths, sizes, versions = zip(*files, strict=True)
        lines = "".join([f"{path}\0{size}\0{version}\n" for path, size, version in zip(paths, sizes, versions, strict=True)])
        return cls(lines, list(paths), list(map(str, sizes)), list(map(json.dumps, versions)))

    def files(self) -> Iterator[ListedFile]:
        """Yield the files one by one."""
        return map(ListedFile, self.paths, map(int, self.sizes), map(json.loads, self.versions))


class _TooManyError(Exception):
    """A folder has more names than this process lists."""


def files_below(folder: str) -> Generator[ListedFile, None, None]:
    """Yield the files of ``blocks_below`` one by one."""
    with closing(blocks_below(folder)) as blocks:
        for block in blocks:
            yield from block.files()


def blocks_below(folder: str) -> Generator[FileBlock, None, None]:
    """Yield the files below *folder* (which ends in a slash), in the order of their whole paths.

    Hidden files and those in run directories are skipped. Links to folders are followed, except those to a parent folder.

    Raises:
        InputError: Something cannot be read.
    """
    last = ""
    size, remaining = FIRST_BLOCK, _MOST_IN_PROCESS
    try:
        with closing(_walk(folder, "", _MOST_IN_PROCESS)) as lines:
            while block := list(islice(lines, min(size, remaining))):
                yield FileBlock.of_lines("".join(block))
                last = block[-1].partition("\0")[0]
                size, remaining = min(2 * size, BLOCK), remaining - len(block)
        if remaining:
            return
    except _TooManyError:
        pass
    yield from _list_in_subprocess(folder, last)


def folders_below(folder: str, above: frozenset[Identity] = frozenset()) -> Iterator[str]:
    """Yield *folder* (which ends in a slash) and the folders below it that ``blocks_below`` visits, each with a slash.

    Args:
        folder: The top folder.
        above: Identities of the parent folders of *folder*.
    """
    identity = _identity(folder)
    if identity in above:
        return
    yield folder
    for names in _sorted_names(folder, None):
        for name in names:
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


def _walk(
    folder: str, after: str, most_names: int | None, above: frozenset[Identity] = frozenset()
) -> Generator[str, None, None]:
    """Yield a line for every file below *folder* whose path sorts after *after*; raises _TooManyError for too many names.

    *above* are the parent folders of *folder*: following a link back to one of them would never end.
    """
    identity = _identity(folder)
    if identity in above:
        return
    for names in _sorted_names(folder, most_names):
        if names and folder + names[0] <= after:
            names = [name for name in names if folder + name > after or (name[-1] == "/" and after.startswith(folder + name))]  # noqa: PLW2901  the same names
        start = 0
        for stop in [*[number for number, name in enumerate(names) if name[-1] == "/"], len(names)]:
            yield from _lines(folder, names[start:stop])
            if stop < len(names):
                yield from _walk(folder + names[stop], after, most_names, above | {identity})
            start = stop + 1


def _lines(folder: str, names: list[str]) -> Iterator[str]:
    """Yield a line for each of the files *names* in *folder*; others than regular files are skipped."""
    if not names:
        return
    name = ""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # relative to it, a name is found in 3/4 of the time
        try:
            for name in names:
                status = os.stat(name, dir_fd=descriptor)
                if stat.S_ISREG(status.st_mode):
                    yield f"{folder}{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(folder + name, f"cannot be read: {error.strerror}") from error


def _sorted_names(folder: str, most: int | None) -> Iterable[list[str]]:
    """Return the names in *folder* in order, in lists; those of folders have a trailing slash.

    With its slash a folder sorts among its siblings exactly where the paths below it do. Memory is bounded: sorted runs of
    names are written to a temporary file and merged.
    """
    limit = _MOST_NAMES if most is None else most
    runs: list[Iterator[list[str]]] = []
    names: list[str] = []
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." or name == RUNS_FOLDER:
                        continue
                    try:
                        names.append(f"{name}/" if entry.is_dir() else name)
                    except OSError:  # a circular link, which ``os.stat`` reports later
                        names.append(name)
                    if len(names) > limit:
                        if most is not None:
                            raise _TooManyError
                        file = file or stack.enter_context(tempfile.TemporaryFile())
                        runs.append(_spilled(names, file))
                        names = []
        except OSError as error:
            raise InputError(folder, f"cannot be read: {error.strerror}") from error
        names.sort()
        return _merged([*runs, iter([names])], stack.pop_all()) if runs else [names]


def _merged(runs: list[Iterator[list[str]]], stack: ExitStack) -> Iterator[list[str]]:
    """Merge sorted *runs* list by list; closes their file, which is on the *stack*, after the last name."""
    with stack:
        blocks = [(block, run) for run in runs for block in islice(run, 1) if block]
        while blocks:
            limit = min(block[-1] for block, _ in blocks)  # up to here no list lacks a name
            merged, remaining = [], []
            for block, run in blocks:
                count = bisect_right(block, limit)
                merged += block[:count]
                if rest := block[count:] or next(run, []):
                    remaining.append((rest, run))
            merged.sort()
            yield merged
            blocks = remaining


def _spilled(names: list[str], file: IO[bytes]) -> Iterator[list[str]]:
    """Append the sorted *names* to a file, and return an iterator that reads them back, in lists."""
    names.sort()
    start = file.tell()
    file.write(os.fsencode("\0".join(names)) + b"\0")  # the only byte that no name contains
    file.flush()
    return _read_back(file.fileno(), start, file.tell())


def _read_back(descriptor: int, start: int, stop: int) -> Iterator[list[str]]:
    rest = b""
    while block := os.pread(descriptor, min(_SPILL_BLOCK, stop - start), start):
        start += len(block)
        whole, end, rest = (rest + block).rpartition(b"\0")
        if end:
            yield os.fsdecode(whole).split("\0")


# In a subprocess


def _list_in_subprocess(folder: str, after: str) -> Iterator[FileBlock]:
    """Yield the files of ``_walk``, listed by a subprocess."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(Path(__file__).parents[2]), folder, after]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as lister:
        assert lister.stdout is not None  # noqa: S101  for the type checker: stdout is a pipe
        try:
            while lines := _read_block(lister.stdout, folder):
                yield FileBlock.of_lines(lines)
        finally:
            lister.kill()


def _read_block(source: IO[bytes], folder: str) -> str:
    """Return the lines of the next block, "" at the end."""
    (length,) = _LENGTH.unpack(_read_exactly(source, _LENGTH.size, folder))
    text = os.fsdecode(_read_exactly(source, abs(length), folder))
    if length < 0:
        raise InputError(*json.loads(text))
    return text


def _read_exactly(source: IO[bytes], length: int, folder: str) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise InputError(folder, "cannot be listed: the listing process exited early")
    return data


def write_listing(folder: str, after: str, target: IO[bytes]) -> None:
    """Write the files below *folder* whose paths sort after *after*, in the format that ``_read_block`` reads."""
    lines, size = _walk(folder, after, None), FIRST_BLOCK
    try:
        while block := os.fsencode("".join(islice(lines, size))):
            target.write(_LENGTH.pack(len(block)) + block)
            target.flush()
            size = min(2 * size, BLOCK)
        target.write(_LENGTH.pack(0))
    except InputError as error:
        message = os.fsencode(json.dumps(error.args))
        target.write(_LENGTH.pack(-len(message)) + message)
    target.flush()
