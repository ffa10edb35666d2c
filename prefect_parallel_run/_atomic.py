"""Writes a file or folder completely or not at all: under a temporary name beside its path, and renamed at the end."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from prefect_parallel_run.errors import OutputError

_CURRENT_FOLDER, _EXCHANGE = -100, 2  #: constants of renameat2


class AtomicFile:
    """A temporary file that replaces *path* on ``commit``. A ``with`` block commits it, unless the block raises.

    Args:
        path: The final path; readers see the old content until ``commit``. The attribute may be changed before that.
        sync: Sync the content before it is renamed: after a power cut the file is complete, whether old or new.
        sync_folder: Sync the folder after that: after a power cut the file is the new one.
        token: Part of the temporary name, so that concurrent writers do not collide. The next writer with the same token
            replaces the temporary file of a killed process.
        mode: Permissions of the file, before the process's umask.
    """

    def __init__(
        self, path: Path, *, sync: bool = False, sync_folder: bool = False, token: str = "", mode: int = 0o666
    ) -> None:
        self.path = path
        self.replaces_folders = False  #: ``commit`` may replace a folder with its content; may be changed before that
        self._sync, self._sync_folder = sync, sync_folder
        self._temporary = _temporary(path, token)
        self.file: BinaryIO = os.fdopen(os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode), "w+b")

    def commit(self) -> None:
        """Replace the file at ``path``."""
        self.file.flush()
        if self._sync:
            os.fsync(self.file.fileno())
        self.file.close()
        replace(self._temporary, self.path, even_folders=self.replaces_folders)
        if self._sync_folder:
            sync(self.path.parent)

    def discard(self) -> None:
        """Delete the temporary file unless it was committed; its errors must not hide an earlier one."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self._temporary.unlink()

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()


@contextmanager
def atomic_folder(path: Path, *, token: str = "", replaces: bool = False) -> Iterator[Path]:
    """Provide a temporary folder that becomes *path* unless the block raises.

    Args:
        path: The folder; its parents are created.
        token: As for ``AtomicFile``.
        replaces: *path* may be a file, or a folder with content: it is replaced. Otherwise it must be missing or empty.
    """
    temporary = _temporary(path, token)
    with temporary_folder(temporary):
        yield temporary
        if replaces:
            replace(temporary, path, even_folders=True)
        else:
            temporary.replace(path)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Provide an empty folder that is deleted afterwards; files that a killed process left there are deleted first."""
    remove(path)
    try:
        path.mkdir(parents=True)
        yield path
    finally:
        remove(path)


def replace(source: Path, target: Path, *, even_folders: bool = False) -> None:
    """Rename *source*, a file or folder, to *target*, and delete what *target* was.

    At every instant *target* is the old or the new one, except where the file system cannot exchange two names, such as NFS:
    there the old one has a hidden name for an instant, and that name is left if the process is killed then.

    Args:
        source: An existing path in the folder of *target*.
        target: The new path.
        even_folders: *target* may be a folder, or a file while *source* is a folder.
    """
    is_plain = not even_folders or not os.path.lexists(target) or not (source.is_dir() or target.is_dir())
    if is_plain:
        source.replace(target)
    elif _exchange(source, target):
        remove(source)
    else:
        _replace_in_two_steps(source, target)


def _replace_in_two_steps(source: Path, target: Path) -> None:
    aside = source.with_name(f"{source.name}.old")
    remove(aside)
    try:
        target.rename(aside)
        source.rename(target)
    except BaseException:
        if not os.path.lexists(target):
            aside.rename(target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file, or a folder with its content, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths at one instant; False where the system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, with a C library of 2018 or later
    if call is None:
        return False
    return bool(call(_CURRENT_FOLDER, os.fsencode(first), _CURRENT_FOLDER, os.fsencode(second), _EXCHANGE) == 0)


def sync(path: Path) -> None:
    """Sync a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def wrap_disk_errors(path: Path, action: str = "written") -> Iterator[None]:
    """Convert OSError to OutputError: *path* cannot be *action*."""
    try:
        yield
    except OSError as error:
        raise OutputError(str(path), f"cannot be {action}: {error.strerror or error}") from error


def _temporary(path: Path, token: str) -> Path:
    return path.with_name(f".{path.name}.{token}.tmp" if token else f".{path.name}.tmp")
