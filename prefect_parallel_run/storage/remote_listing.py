"""Listing a store: the objects below a URL, or those that a pattern stands for, in the order of their names, memory bounded."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefect_parallel_run.child.storage import store_of, version_in
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
        place = _Place.of(url)
        info = None if url.endswith("/") else place.info()
        if info is not None and info["type"] != "directory":
            yield place.object(place.name, info)
        elif info is None and glob.has_magic(place.name):
            yield from _matching(place)
        else:
            yield from _all_below(place, is_there=info is not None)


def look(url: str) -> StoredObject | None:
    """Return the one object that *url* names; None when there is none. Raises InputError when the store refuses."""
    with _told(url):
        place = _Place.of(url)
        info = place.info()
        return None if info is None or info["type"] == "directory" else place.object(place.name, info)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Have what goes wrong with a store told in terms of the input."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(url, "does not exist") from error
    except Exception as error:  # what a store's library raises has no common class
        raise InputError(url, f"cannot be read: {type(error).__name__}: {error}") from error


class _Place(NamedTuple):
    """A URL, taken apart."""

    store: Any  #: fsspec's file system
    name: str  #: there, without a slash at its end
    prefix: str  #: makes a URL of a name

    @classmethod
    def of(cls, url: str) -> _Place:
        store, name = store_of(url)
        store.invalidate_cache()
        name = name.rstrip("/")
        given = url.rstrip("/")
        if glob.has_magic(name.lstrip("/").partition("/")[0]):
            raise InputError(url, "has a pattern where the bucket, or the first folder, should stand")
        return cls(store, name, given[: -len(name)] if name and given.endswith(name) else "")

    def info(self) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self.store.info(self.name)
        except FileNotFoundError:
            return None
        return info

    def object(self, name: str, info: dict[str, Any]) -> StoredObject:
        """Return an object; one whose URL would mean something else, or that cannot be told from another, is refused."""
        url = f"{self.prefix}{name}" if self.prefix else str(self.store.unstrip_protocol(name))
        version = version_in(info)
        if any(odd in name for odd in _ODD):
            raise InputError(
                url, f"has one of {', '.join(_ODD)} in its name, which the store's library takes for something else"
            )
        if info["size"] is None or not version:
            raise InputError(url, "cannot be told from a changed one: its store gives no size, or neither ETag nor time")
        return StoredObject(url, info["size"], version)


def _all_below(place: _Place, *, is_there: bool) -> Iterator[StoredObject]:
    """Yield the objects below a folder; raises InputError when there is no such folder."""
    for found in _below(place, f"{place.name}/", depth=None):
        is_there = True
        yield found
    if not is_there:
        raise InputError(f"{place.prefix}{place.name}", "does not exist")


def _matching(place: _Place) -> Iterator[StoredObject]:
    from fsspec.utils import glob_translate  # noqa: PLC0415  only patterns need it

    pattern = place.name
    matches = re.compile(glob_translate(pattern)).match
    magic = re.search(r"[*?\[]", pattern)
    literal = pattern[: magic.start()] if magic else pattern
    depth = None if "**" in pattern else pattern.count("/") - literal.count("/")
    for found in _below(place, literal, depth):
        if matches(found.url[len(place.prefix) :]):
            yield found


def _below(place: _Place, start: str, depth: int | None) -> Iterator[StoredObject]:
    """Yield the objects whose names begin with *start*, at most *depth* folders below its last slash; no hidden ones."""
    folder = start[: start.rindex("/") + 1]
    protocols = (place.store.protocol,) if isinstance(place.store.protocol, str) else place.store.protocol
    found = _pages(place.store, start, depth) if "s3" in protocols else _walk(place.store, folder, depth)
    for name, info in found:
        below = name[len(folder) :].split("/")
        if name.startswith(start) and not any(segment.startswith(".") or segment == _OWN_FOLDER for segment in below):
            yield place.object(name, info)


_ODD = ("::", "?versionId=")
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
