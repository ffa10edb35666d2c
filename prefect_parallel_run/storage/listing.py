"""Which files a path, folder, glob or URL stands for: each once, in the order of their paths, with size and version."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import heapq
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import OWN_FOLDER, Listed, files_below, folders_below
from prefect_parallel_run.storage.remote_listing import list_store

_MARKS = ("_", ".")  #: how the names of files and folders start that hold no data of a table
_DELTA_LOG = "_delta_log"
# Files that are listed before the first of them is handed on: few at first, for a quick start.
_FIRST_BLOCK, _BLOCK = 16, 1_024


class Listing:
    """The files that absolute *paths* stand for, listed anew by every iteration.

    Args:
        paths: Of one dataset.
        check_cancelled: Called now and then while files are listed; raises to stop.
        of_table: Leave out what writers of tables put beside the data, such as ``_SUCCESS`` and ``_metadata``.
    """

    def __init__(
        self, paths: Sequence[str], check_cancelled: Callable[[], None] = lambda: None, *, of_table: bool = False
    ) -> None:
        self._paths, self._check_cancelled, self._list = paths, check_cancelled, list_table_files if of_table else list_files
        self.sha256 = ""  #: over path, size and version of every file, in order; of the newest listing that went to its end

    def __iter__(self) -> Iterator[Listed]:
        total = hashlib.sha256()
        size = _FIRST_BLOCK
        with closing(self._list(self._paths)) as files:  # when the heartbeat raises too: it may be a process that lists
            while block := list(islice(files, size)):
                self._check_cancelled()
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
    yield from _merged(paths, _matches)


def list_table_files(paths: Sequence[str]) -> Generator[Listed, None, None]:
    """Yield the same files except those that hold no data of a table: their names start with ``_`` or ``.``.

    Names in a path as it was given count, and so do folders such as ``_key=value``.

    Raises:
        InputError: As above, or a folder is a Delta table.
    """
    yield from _merged(paths, _table_matches)


def _merged(paths: Sequence[str], matches: Callable[[str], Generator[Listed, None, None]]) -> Generator[Listed, None, None]:
    if len(paths) == 1:
        yield from matches(paths[0])
        return
    last = ""
    with ExitStack() as stack:
        for listed in heapq.merge(*(stack.enter_context(closing(matches(path))) for path in paths)):
            if listed.path != last:
                yield listed
            last = listed.path


def _table_matches(path: str) -> Generator[Listed, None, None]:
    """Yield what ``_matches`` yields of the files of tables."""
    given = path.rstrip("/").split("/")
    if not is_remote(path) and os.path.isdir(os.path.join(path, _DELTA_LOG)):
        raise _is_delta(path)
    # Only the names below those that were given in full, and not matched by a pattern that starts with the same character.
    exists = not is_remote(path) and os.path.exists(path)
    patterns = [] if exists else [name for name in given if name.startswith(_MARKS)]
    with closing(_matches(path)) as files:
        for listed in files:
            names = listed.path.split("/")
            number = next((n for n, (a, b) in enumerate(zip(names, given, strict=False)) if a != b), len(given))
            for position, name in enumerate(names[number:], number):
                if not name.startswith(_MARKS) or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                is_folder = position < len(names) - 1
                if is_folder and name == _DELTA_LOG:
                    raise _is_delta("/".join(names[:position]))
                if not (is_folder and name.find("=") > 1):
                    break
            else:
                yield listed


def _is_delta(folder: str) -> InputError:
    words = "is a Delta table (it has a folder _delta_log): its log says which of its files count"
    return InputError(folder, f"{words}; pass the list of these files, as file_uris() of deltalake's DeltaTable returns it")


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
