"""Opens the files and objects of an input, and checks that they have not changed since planning.

A path is absolute, or the URL of an object in a store that fsspec supports (``s3://bucket/key``). The store's own library reads
credentials and endpoints from the environment and its configuration; this package never handles them.
"""

import os
from contextlib import suppress
from typing import Any, BinaryIO, Dict, Tuple, Union, cast

_REQUESTED = 1 << 20  #: bytes; kernels cut larger requests
Version = Union[int, str]  #: modification time in ns of a file, ETag (or the store's equivalent) of an object
_VERSIONS: "Tuple[str, ...]" = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "sha"),
    *("mtime", "last_modified", "LastModified", "Last-Modified", "modified", "modificationTime", "created"),
)


class InputChanged(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """A file has changed since the run was planned."""


class StoreFailure(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """A store could not be read; the message contains the object and the error of the store's library."""


def is_remote(path: str) -> bool:
    """True for a URL."""
    return "://" in path


def store_of(url: str) -> "Tuple[Any, str]":
    """Return the fsspec file system that *url* belongs to, and the object's name there."""
    import fsspec  # noqa: PLC0415  only objects need it

    return cast("Tuple[Any, str]", fsspec.core.url_to_fs(url))


def version_in(info: Dict[str, Any]) -> str:
    """Return the version of an object: a value of its info that changes with its content.

    >>> version_in({"name": "b/k", "size": 1, "ETag": '"c4ca"'})
    'c4ca'
    """
    version = next((info[key] for key in _VERSIONS if info.get(key)), "")
    return str(version).strip('"')


def open_file(path: str) -> BinaryIO:
    """Open the file at *path* for reading; it is seekable."""
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
            raise OSError(f"got {len(data)} bytes instead of {stop - start}: the store does not support range requests for it")
        return data
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def request(path: str, start: int, stop: int) -> None:
    """Have the kernel read bytes *start* to *stop* of a local file into the page cache if they are not there; does not wait.

    Does nothing for an object in a store. This is advice: an error appears when the file is read, if it matters at all.
    """
    if is_remote(path) or not hasattr(os, "preadv") or not hasattr(os, "RWF_NOWAIT"):  # the latter: not Linux
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            stop = min(stop, os.fstat(descriptor).st_size)
            for offset in range(max(start, 0), stop, _REQUESTED):
                if not _is_cached(descriptor, offset):
                    os.posix_fadvise(descriptor, offset, min(_REQUESTED, stop - offset), os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _is_cached(descriptor: int, offset: int) -> bool:
    with suppress(OSError):  # the byte is not in the page cache, or the file system does not support the question
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        return True
    return False


def check(path: str, size: int, version: Version) -> None:
    """Raise InputChanged when the file at *path* has another size or version."""
    try:
        actual_size, actual_version = _stat(path)
    except FileNotFoundError:
        raise InputChanged(f"{path} has been removed since the run was planned") from None
    if actual_size != size:
        raise InputChanged(f"{path} has {actual_size} bytes, but had {size} when the run was planned")
    if actual_version != version:
        raise InputChanged(f"{path} has been modified since the run was planned")


def _stat(path: str) -> "Tuple[int, Version]":
    if is_remote(path):
        store, name = store_of(path)
        store.invalidate_cache()  # an earlier listing may be outdated
        info = store.info(name)
        return info["size"], version_in(info)
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
