"""Objects written, read and removed by URL; what a store refuses is an OutputError that names the object."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.storage import is_remote, open_file, store_of, version_in
from prefect_parallel_run.errors import OutputError

_BLOCK = 1 << 20  #: bytes read at a time
_PIECE = 32 << 20  #: bytes sent at a time
_MOST_PIECES = 9_000  #: of an object; S3 takes 10,000
_WHOLE_AT_ONCE = {"s3", "gs", "gcs"}  #: objects are sent in pieces and appear when they are whole; folders do not exist


@contextmanager
def told(url: str, doing: str, *expected: type[OSError]) -> Iterator[None]:
    """Have what goes wrong with a store told in terms of the output; *expected* errors stay as they are."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:  # what a store's library raises has no common class
        if isinstance(error, expected):
            raise
        raise OutputError(url, f"cannot be {doing}: {type(error).__name__}: {error}") from error


def upload(local: Path, url: str, check_cancelled: Callable[[], None] = lambda: None) -> None:
    """Copy a file to *url*, where it is whole or absent; what was there before is replaced at the very end.

    Args:
        local: Must not change meanwhile.
        url: Of the object.
        check_cancelled: Called now and then; when it raises, nothing appears.
    """
    size = local.stat().st_size
    with told(url, "written"):
        store, name = store_of(url)
        if _is_whole_at_once(store) and size <= _PIECE:
            store.put_file(str(local), name)
        elif _is_whole_at_once(store):
            _upload_in_pieces(store, local, name, check_cancelled)
        else:
            beside = f"{name}.{uuid.uuid4().hex[:8]}.tmp"
            store.makedirs(name.rpartition("/")[0], exist_ok=True)
            try:
                store.put_file(str(local), beside)
                check_cancelled()
                store.mv(beside, name)
            except BaseException:
                if store.exists(beside):
                    store.rm(beside)
                raise
        found = facts(url)[0]
    if found != size:
        raise OutputError(url, f"has {found} bytes where {size} were written")


def _upload_in_pieces(store: Any, local: Path, name: str, check_cancelled: Callable[[], None]) -> None:
    """Send a file piece by piece; the object appears when all have come, and not at all when *check_cancelled* raises."""
    block = max(_PIECE, local.stat().st_size // _MOST_PIECES)
    with local.open("rb") as source:
        target = store.open(name, "wb", block_size=block, autocommit=False)
        try:
            while piece := source.read(block):
                target.write(piece)
                check_cancelled()
            target.close()
        except BaseException:
            target.closed = True  # else its end would send what there is
            target.discard()
            raise
        target.commit()


def write(url: str, data: bytes, *, only_new: bool = False) -> None:
    """Write a small object; raises FileExistsError when it has to be new and is not."""
    with told(url, "written", FileExistsError):
        store, name = store_of(url)
        if not _is_whole_at_once(store):
            store.makedirs(name.rpartition("/")[0], exist_ok=True)
        if only_new:
            if store.exists(name):
                raise FileExistsError(url)
            store.pipe_file(name, data, mode="create")  # refused by the store itself, where it can
        else:
            store.pipe_file(name, data)


def read(url: str) -> bytes:
    """Return an object; raises FileNotFoundError when there is none."""
    with told(url, "read", FileNotFoundError):
        store, name = store_of(url)
        return bytes(store.cat_file(name))


def download(url: str, local: Path) -> None:
    """Copy an object to a file; raises FileNotFoundError when there is none."""
    with told(url, "read", FileNotFoundError):
        store, name = store_of(url)
        store.get_file(name, str(local))


def names_below(url: str) -> dict[str, int]:
    """Return the names right below a folder, each with its size; folders end in a slash."""
    with told(url, "listed"):
        store, folder = store_of(url)
        store.invalidate_cache()
        try:
            entries: list[dict[str, Any]] = store.ls(folder, detail=True)
        except FileNotFoundError:
            return {}
    found = {}
    for entry in entries:
        last = entry["name"].rstrip("/").rpartition("/")[2]
        found[f"{last}/" if entry["type"] == "directory" else last] = entry["size"] or 0
    return found


def remove_below(url: str) -> None:
    """Remove a folder with all that is in it; nothing happens when there is none."""
    with told(url, "removed"):
        store, folder = store_of(url)
        store.invalidate_cache()
        if store.exists(folder):
            store.rm(folder, recursive=True)


def known(url: str) -> tuple[int, str] | None:
    """Return size and version of an object; None when there is none."""
    try:
        return facts(url)
    except FileNotFoundError:
        return None


def exists(url: str) -> bool:
    """True when there is such an object."""
    return known(url) is not None


def facts(url: str) -> tuple[int, str]:
    """Return size and version of an object; raises FileNotFoundError when there is none."""
    with told(url, "looked at", FileNotFoundError):
        store, name = store_of(url)
        store.invalidate_cache()
        info = store.info(name)
        if info["type"] == "directory":
            raise FileNotFoundError(url)
        return info["size"], version_in(info)


def file_sha256(place: str | Path) -> str:
    """Return the SHA-256 of a file, or of an object."""
    total = hashlib.sha256()
    with open_file(str(place)) as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def size_of(place: str) -> int | None:
    """Return the size of a file, or of an object; None when there is none."""
    if is_remote(place):
        found = known(place)
        return None if found is None else found[0]
    path = Path(place)
    return path.stat().st_size if path.is_file() else None


def _is_whole_at_once(store: Any) -> bool:
    protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
    return bool(protocols & _WHOLE_AT_ONCE)
