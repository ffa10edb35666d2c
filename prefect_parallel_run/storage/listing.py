"""Expands paths, folders, globs and URLs to files: each once, in the order of their paths, with size and version."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import heapq
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import (
    BLOCK,
    FIRST_BLOCK,
    FileBlock,
    ListedFile,
    blocks_below,
    files_below,
    folders_below,
    read_status,
)
from prefect_parallel_run.storage.objects import list_store
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_NO_DATA = ("_", ".")  #: first characters of files and folders that contain no data of a table
_DELTA_LOG = "_delta_log"


class Listing:
    """The files that absolute *paths* expand to; every iteration lists them again.

    Args:
        paths: Paths of one dataset.
        check_cancelled: Called periodically while files are listed; raises when the run is cancelled.
        of_table: Skip files that writers of tables put beside the data, such as ``_SUCCESS`` and ``_metadata``.
    """

    def __init__(
        self, paths: Sequence[str], check_cancelled: CheckCancelled = never_cancelled, *, of_table: bool = False
    ) -> None:
        self._paths, self._check_cancelled, self._of_table = paths, check_cancelled, of_table
        self.sha256 = ""  #: hash of path, size and version of every file, in order; from the latest complete iteration

    def __iter__(self) -> Iterator[ListedFile]:
        with closing(self.blocks()) as blocks:
            for block in blocks:
                yield from block.files()

    def blocks(self) -> Generator[FileBlock, None, None]:
        """Yield the files in blocks; the first ones are small, for a quick start."""
        total = hashlib.sha256()
        with closing(self._blocks()) as blocks:  # also when check_cancelled raises: a subprocess may be listing
            for block in blocks:
                self._check_cancelled()
                total.update(block.lines.encode("utf-8", "surrogateescape"))
                yield block
        self.sha256 = total.hexdigest()

    def _blocks(self) -> Generator[FileBlock, None, None]:
        if len(self._paths) == 1 and not self._of_table and not is_remote(self._paths[0]) and os.path.isdir(self._paths[0]):
            yield from blocks_below(os.path.join(self._paths[0], ""))
            return
        size = FIRST_BLOCK
        with closing(self._files()) as files:
            while block := list(islice(files, size)):
                yield FileBlock.of_files(block)
                size = min(2 * size, BLOCK)

    def _files(self) -> Generator[ListedFile, None, None]:
        return list_files(self._paths, of_table=self._of_table)

    def exhaust(self) -> str:
        """List all files and return the hash."""
        deque(self.blocks(), maxlen=0)
        return self.sha256


def list_files(paths: Sequence[str], *, of_table: bool = False) -> Generator[ListedFile, None, None]:
    """Yield the files that absolute *paths* expand to, sorted by path, each once.

    A folder expands to all files below it, except hidden ones; links to folders are followed, in a glob's ``**`` too.

    Args:
        paths: Paths, folders and globs.
        of_table: Skip files that contain no table data: their names start with ``_`` or ``.``. Names that *paths* contain are
            kept, and so are folders such as ``_key=value``.

    Raises:
        InputError: A path does not exist, a folder cannot be read, or, with *of_table*, a folder is a Delta or Iceberg table.
    """
    matches = _table_matches if of_table else _matches
    if len(paths) == 1:
        yield from matches(paths[0])
        return
    last = ""
    with ExitStack() as stack:
        for file in heapq.merge(*(stack.enter_context(closing(matches(path))) for path in paths)):
            if file.path != last:
                yield file
            last = file.path


def _table_matches(path: str) -> Generator[ListedFile, None, None]:
    """Yield the files of ``_matches`` that contain table data."""
    segments = path.rstrip("/").split("/")
    if not is_remote(path) and os.path.isdir(path):
        if os.path.isdir(os.path.join(path, _DELTA_LOG)):
            raise _delta_error(path)
        _check_no_iceberg_table(path)
    # Applies only to names that *path* does not contain literally, or match by a pattern that starts with the same character.
    exists = not is_remote(path) and os.path.exists(path)
    patterns = [] if exists else [name for name in segments if name.startswith(_NO_DATA)]
    with closing(_matches(path)) as files:
        for file in files:
            names = file.path.split("/")
            number = next((n for n, (a, b) in enumerate(zip(names, segments, strict=False)) if a != b), len(segments))
            for position, name in enumerate(names[number:], number):
                if not name.startswith(_NO_DATA) or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                is_folder = position < len(names) - 1
                if is_folder and name == _DELTA_LOG:
                    raise _delta_error("/".join(names[:position]))
                if not (is_folder and name.find("=") > 1):
                    break
            else:
                yield file


def _delta_error(folder: str) -> InputError:
    reason = "is a Delta table (it has a folder _delta_log): its log determines which of its files are current"
    return InputError(folder, f"{reason}; read it with TabularDataset.from_delta_table, or --format delta")


def _check_no_iceberg_table(folder: str) -> None:
    """Raise InputError if the local *folder* is an Iceberg table, or the folder of its data."""
    for root in (folder, os.path.join(folder, "..")):
        if next(glob.iglob(os.path.join(glob.escape(root), "metadata", "*.metadata.json")), None) is not None:
            reason = "is an Iceberg table: its metadata determines which of its files are current"
            raise InputError(folder, f"{reason}; read it with TabularDataset.from_iceberg_table, or --format iceberg")


def _matches(path: str) -> Generator[ListedFile, None, None]:
    """Yield the files that one path expands to, sorted, each once."""
    if is_remote(path):
        yield from list_store(path)
    elif os.path.isdir(path):
        yield from files_below(os.path.join(path, ""))
    elif os.path.exists(path):
        yield file_at(path)
    elif glob.has_magic(path):
        yield from map(file_at, filter(_is_input, sorted(set(_expand(path)))))
    else:
        raise InputError(path, "does not exist")


def _expand(pattern: str) -> Iterator[str]:
    """Yield the paths that match *pattern*.

    ``**`` visits the same folders as the listing of a folder: ``glob`` would follow a link to a parent folder repeatedly, up to
    the system's limit.
    """
    segments = pattern.replace("/**/**", "/**").split(os.sep)
    if "**" not in segments:
        yield from glob.iglob(pattern)
        return
    number = segments.index("**")
    head, tail = os.sep.join(segments[:number]), os.sep.join(segments[number + 1 :])
    for top in glob.iglob(os.path.join(head, "")):
        for folder in folders_below(top):
            yield from glob.iglob(f"{glob.escape(folder)}*") if not tail else _expand(glob.escape(folder) + tail)


def _is_input(path: str) -> bool:
    return os.path.isfile(path) and f"{os.sep}{RUNS_FOLDER}{os.sep}" not in path


def file_at(path: str) -> ListedFile:
    """Return a local file as it is now; raises InputError."""
    status = read_status(path)
    return ListedFile(path, status.st_size, status.st_mtime_ns)
