"""Writes, reads and deletes objects by URL; errors of a store are raised as OutputError with the object's URL."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote, open_file, store_of, version_in
from prefect_parallel_run.errors import OutputError

_BLOCK = 1 << 20  #: bytes per read
_PIECE = 32 << 20  #: bytes per uploaded piece
_MOST_PIECES = 9_000  #: maximum pieces of an object; S3 accepts 10,000
_ATOMIC_UPLOADS = {"s3", "gs", "gcs"}  #: stores where an object appears once all its pieces are uploaded, without folders


@contextmanager
def wrap_store_errors(url: str, action: str, *expected: type[OSError]) -> Iterator[None]:
    """Convert errors of a store's library to OutputError, such as "cannot be written"; *expected* errors pass unchanged."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # the errors of store libraries have no common class
        if isinstance(error, expected):
            raise
        raise OutputError(url, f"cannot be {action}: {type(error).__name__}: {error}") from error


def upload(local: Path, url: str, check_cancelled: CheckCancelled = never_cancelled) -> str:
    """Upload a file to *url* atomically, and return its version; an existing object is replaced at the very end.

    Args:
        local: The file, which must not change meanwhile.
        url: URL of the object.
        check_cancelled: Called periodically; when it raises, the object is not created.
    """
    size = local.stat().st_size
    with wrap_store_errors(url, "written"):
        store, name = store_of(url)
        if _has_atomic_uploads(store) and size <= _PIECE:
            store.put_file(str(local), name)
        elif _has_atomic_uploads(store):
            _upload_in_pieces(store, local, name, check_cancelled)
        else:
            temporary = f"{name}.{uuid.uuid4().hex[:8]}.tmp"
            store.makedirs(name.rpartition("/")[0], exist_ok=True)
            try:
                store.put_file(str(local), temporary)
                check_cancelled()
                store.mv(temporary, name)
            except BaseException:
                if store.exists(temporary):
                    store.rm(temporary)
                raise
    stored, version = size_and_version(url) or ("no", "")
    if stored != size:
        raise OutputError(url, f"has {stored} bytes, but {size} were written")
    return version


def _upload_in_pieces(store: Any, local: Path, name: str, check_cancelled: CheckCancelled) -> None:
    """Upload a file in pieces; the object appears after the last one, and not at all when *check_cancelled* raises."""
    block = max(_PIECE, local.stat().st_size // _MOST_PIECES)
    with local.open("rb") as source:
        target = store.open(name, "wb", block_size=block, autocommit=False)
        try:
            while piece := source.read(block):
                target.write(piece)
                check_cancelled()
            target.close()
        except BaseException:
            target.closed = True  # else its finalizer would upload the buffer
            target.discard()
            raise
        target.commit()


def write(url: str, data: bytes, *, only_new: bool = False) -> None:
    """Write a small object; with *only_new*, raises FileExistsError if it exists."""
    with wrap_store_errors(url, "written", FileExistsError):
        store, name = store_of(url)
        if not _has_atomic_uploads(store):
            store.makedirs(name.rpartition("/")[0], exist_ok=True)
        if only_new:
            if store.exists(name):
                raise FileExistsError(url)
            store.pipe_file(name, data, mode="create")  # atomic in stores that support it
        else:
            store.pipe_file(name, data)


def read(url: str) -> bytes:
    """Return the content of an object; raises FileNotFoundError if it does not exist."""
    with wrap_store_errors(url, "read", FileNotFoundError):
        store, name = store_of(url)
        return bytes(store.cat_file(name))


def download(url: str, local: Path) -> None:
    """Copy an object to a file; raises FileNotFoundError if it does not exist."""
    with wrap_store_errors(url, "read", FileNotFoundError):
        store, name = store_of(url)
        store.get_file(name, str(local))


def names_below(url: str) -> dict[str, int]:
    """Return the names directly below a folder, each with its size; folders have a trailing slash."""
    with wrap_store_errors(url, "listed"):
        store, folder = store_of(url)
        store.invalidate_cache()
        try:
            entries: list[dict[str, Any]] = store.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
    sizes = {}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        sizes[f"{name}/" if entry["type"] == "directory" else name] = entry["size"] or 0
    return sizes


def remove_below(url: str) -> None:
    """Delete a folder with its content, if it exists."""
    with wrap_store_errors(url, "deleted"):
        store, folder = store_of(url)
        store.invalidate_cache()
        if store.exists(folder):
            store.rm(folder, recursive=True)


def size_and_version(url: str) -> tuple[int, str] | None:
    """Return size and version of an object; None if it does not exist."""
    with wrap_store_errors(url, "inspected"):
        store, name = store_of(url)
        store.invalidate_cache()
        try:
            info = store.info(name)
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else (info["size"], version_in(info))


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file or object."""
    with open_file(str(path)) as file:
        return sha256_of(file)


def sha256_of(file: IO[bytes], check_cancelled: CheckCancelled = never_cancelled) -> str:
    """Return the SHA-256 of an open file, which stands at its end afterwards; *check_cancelled* is called between blocks."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
        check_cancelled()
    return digest.hexdigest()


def size_of(path: str) -> int | None:
    """Return the size of a file or object; None if it does not exist."""
    if is_remote(path):
        version = size_and_version(path)
        return None if version is None else version[0]
    local = Path(path)
    return local.stat().st_size if local.is_file() else None


def protocols(store: Any) -> tuple[str, ...]:
    """Return the schemes of a store's URLs."""
    return (store.protocol,) if isinstance(store.protocol, str) else tuple(store.protocol)


def _has_atomic_uploads(store: Any) -> bool:
    return not _ATOMIC_UPLOADS.isdisjoint(protocols(store))
