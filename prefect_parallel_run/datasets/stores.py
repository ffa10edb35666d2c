"""Listing a store: the objects below a URL, or those that a pattern stands for, in the order of their names, memory bounded."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefect_parallel_run.child.sources import store_of, version_in
from prefect_parallel_run.errors import InputError


class StoredObject(NamedTuple):
    """An object as it was found."""

    url: str
    size: int  #: bytes
    version: str  #: ETag, or what the store has like it


def list_store(url: str) -> Iterator[StoredObject]:
    """Yield the objects that *url* stands for: itself, all below it, or those that match a pattern with ``*``, ``?``, ``[…]``.

    Raises:
        InputError: There is none, or the store refuses.
    """
    with _told(url):
        store, name = store_of(url)
        store.invalidate_cache()
        name = name.rstrip("/")
        info = _info(store, name)
        if info is None and glob.has_magic(name):
            yield from _matching(store, name)
        elif info is None:
            raise InputError(url, "does not exist")
        elif info["type"] == "directory":
            yield from _below(store, f"{name}/", depth=None)
        else:
            yield _object(store, name, info)


def look(url: str) -> StoredObject | None:
    """Return the one object that *url* names; None when there is none. Raises InputError when the store refuses."""
    with _told(url):
        store, name = store_of(url)
        store.invalidate_cache()
        info = _info(store, name)
    return None if info is None or info["type"] == "directory" else _object(store, name, info)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Have what goes wrong with a store told in terms of the input."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what a store's library raises has no common class
        raise InputError(url, f"cannot be read: {type(error).__name__}: {error}") from error


def _info(store: Any, name: str) -> dict[str, Any] | None:
    if glob.has_magic(name.partition("/")[0]):  # a bucket is no pattern, and some stores refuse to look for one
        return None
    try:
        info: dict[str, Any] = store.info(name)
    except FileNotFoundError:
        return None
    return info


def _object(store: Any, name: str, info: dict[str, Any]) -> StoredObject:
    return StoredObject(store.unstrip_protocol(name), info["size"] or 0, version_in(info))


def _matching(store: Any, pattern: str) -> Iterator[StoredObject]:
    from fsspec.utils import glob_translate  # noqa: PLC0415  only patterns need it

    matches = re.compile(glob_translate(pattern)).match
    magic = re.search(r"[*?\[]", pattern)
    literal = pattern[: magic.start()] if magic else pattern
    depth = None if "**" in pattern else pattern.count("/") - literal.count("/")
    for found in _below(store, literal, depth):
        if matches(store_of(found.url)[1]):
            yield found


def _below(store: Any, start: str, depth: int | None) -> Iterator[StoredObject]:
    """Yield the objects whose names begin with *start*, at most *depth* folders below its last slash; no hidden ones."""
    folder = start[: start.rindex("/") + 1]
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    found = _pages(store, start, depth) if "s3" in protocols else _walk(store, folder, depth)
    for name, info in found:
        below = name[len(folder) :].split("/")
        if name.startswith(start) and not any(segment.startswith(".") or segment == _OWN_FOLDER for segment in below):
            yield _object(store, name, info)


_OWN_FOLDER = "_parallel_run"  # a run directory below an input must never become input


def _pages(store: Any, start: str, depth: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and facts of S3 objects page by page: S3 gives them in order, and no page is kept."""
    bucket, _, prefix = start.partition("/")
    more: dict[str, Any] = {"Delimiter": "/"} if depth == 0 else {}
    while True:
        page = store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # what some tools leave to stand for a folder
                yield f"{bucket}/{entry['Key']}", {**entry, "size": entry["Size"]}
        if not page.get("IsTruncated"):
            return
        more["ContinuationToken"] = page["NextContinuationToken"]


def _walk(store: Any, folder: str, depth: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the same folder by folder, for stores that have them."""
    try:
        found = store.ls(folder, detail=True)
    except FileNotFoundError:  # the folder of a pattern
        return
    entries = {f"{one['name'].rstrip('/')}/" if one["type"] == "directory" else one["name"]: one for one in found}
    store.invalidate_cache(folder)
    for name in sorted(entries):
        if not name.endswith("/"):
            yield name, entries[name]
        elif depth is None or depth > 0:
            yield from _walk(store, name, None if depth is None else depth - 1)
