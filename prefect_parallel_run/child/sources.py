"""Where the bytes of an input come from, and whether they are still those that were planned."""

import os
from typing import BinaryIO, Union

Version = Union[int, str]  #: modification time, ns


class InputChanged(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """A file is not what it was when the run was planned."""


def open_file(path: str) -> BinaryIO:
    """Return the file at *path*, open for reading; it can seek."""
    return open(path, "rb")


def read_range(path: str, start: int, stop: int) -> bytes:
    """Return bytes *start* to *stop* of the file at *path*."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def check(path: str, size: int, version: Version) -> None:
    """Raise InputChanged when the file at *path* is not the one of this size and version."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputChanged(f"{path} has been removed since the run was planned") from None
    if status.st_size != size:
        raise InputChanged(f"{path} has {status.st_size} bytes, {size} when the run was planned")
    if status.st_mtime_ns != version:
        raise InputChanged(f"{path} has been modified since the run was planned")
