"""Where the bytes of an input come from, and whether they are still those that were planned.

A path is absolute, or the URL of an object in a store that fsspec reaches (``s3://bucket/key``). Credentials and endpoints are
what the store's own library finds in the environment and in its configuration; none of ours ever holds them.
"""

import os
from typing import Any, BinaryIO, Dict, Tuple, Union, cast

Version = Union[int, str]  #: modification time in ns of a file, ETag (or what the store has like it) of an object
_VERSIONS: "Tuple[str, ...]" = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "sha"),
    *("mtime", "last_modified", "LastModified", "Last-Modified", "modified", "modificationTime", "created"),
)


class InputChanged(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """A file is not what it was when the run was planned."""


class StoreFailure(Exception):  # noqa: N818  the same
    """A store could not be read; the text names the object, and says what the store's library said."""


def is_remote(path: str) -> bool:
    """True for a URL."""
    return "://" in path


def store_of(url: str) -> "Tuple[Any, str]":
    """Return the fsspec file system that *url* belongs to, and the object's name there."""
    import fsspec  # noqa: PLC0415  only objects need it

    return cast("Tuple[Any, str]", fsspec.core.url_to_fs(url))


def version_in(info: Dict[str, Any]) -> str:
    """Return what a store says of an object that changes with its content.

    >>> version_in({"name": "b/k", "size": 1, "ETag": '"c4ca"'})
    'c4ca'
    """
    found = next((info[key] for key in _VERSIONS if info.get(key)), "")
    return str(found).strip('"')


def open_file(path: str) -> BinaryIO:
    """Return the file at *path*, open for reading; it can seek."""
    if is_remote(path):
        store, name = store_of(path)
        return cast("BinaryIO", store.open(name, "rb"))
    return open(path, "rb")


def read_range(path: str, start: int, stop: int) -> bytes:
    """Return bytes *start* to *stop* of the file at *path*."""
    if is_remote(path):
        store, name = store_of(path)
        data = bytes(store.cat_file(name, start=start, end=stop))
        if len(data) != stop - start:
            raise OSError(f"{len(data)} bytes came where {stop - start} were asked for: the store cannot give parts of it")
        return data
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def check(path: str, size: int, version: Version) -> None:
    """Raise InputChanged when the file at *path* is not the one of this size and version."""
    try:
        found = _look(path)
    except FileNotFoundError:
        raise InputChanged(f"{path} has been removed since the run was planned") from None
    if found[0] != size:
        raise InputChanged(f"{path} has {found[0]} bytes, {size} when the run was planned")
    if found[1] != version:
        raise InputChanged(f"{path} has been modified since the run was planned")


def _look(path: str) -> "Tuple[int, Version]":
    """Return size and version."""
    if is_remote(path):
        store, name = store_of(path)
        store.invalidate_cache()  # what a listing said before does not count
        info = store.info(name)
        return info["size"], version_in(info)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
