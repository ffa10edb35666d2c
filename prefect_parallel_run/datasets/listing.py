"""Which files a path, folder or glob stands for: each once, in the order of their paths, with size and time."""

from __future__ import annotations

import glob
import heapq
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prefect_parallel_run.errors import InputError

_OWN_FOLDER = "_parallel_run"  # a run directory inside an input folder must never become input


class Listed(NamedTuple):
    """A file as it was found."""

    path: str
    size: int  #: bytes
    version: int | str  #: modification time, ns


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
    if os.path.isdir(path):
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
    try:
        with os.scandir(folder) as found:
            # With its slash a folder sorts among its neighbours just where the paths below it do. Names only: a folder may
            # hold millions, and an entry takes several times the memory of its name.
            names = sorted(
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in found
                if not entry.name.startswith(".") and entry.name != _OWN_FOLDER
            )
    except OSError as error:
        raise InputError(folder, f"cannot be read: {error.strerror}") from error
    for name in names:
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
