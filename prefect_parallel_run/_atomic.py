"""Writes a file or folder completely or not at all: under a temporary name beside its path, and renamed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from prefect_parallel_run.errors import OutputError


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
        self._sync, self._sync_folder = sync, sync_folder
        self._temporary = _temporary(path, token)
        self.file: BinaryIO = os.fdopen(os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode), "w+b")

    def commit(self) -> None:
        """Replace the file at ``path``."""
        self.file.flush()
        if self._sync:
            os.fsync(self.file.fileno())
        self.file.close()
        self._temporary.replace(self.path)
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
def atomic_folder(path: Path, *, token: str = "") -> Iterator[Path]:
    """Provide a temporary folder that becomes *path*, which must be missing or empty, unless the block raises.

    Args:
        path: The folder; its parents are created.
        token: As for ``AtomicFile``.
    """
    temporary = _temporary(path, token)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
