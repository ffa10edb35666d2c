"""Lists the objects in a store below a URL or matching a pattern, in the order of their names, with bounded memory."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefect_parallel_run.child.storage import store_of, version_in
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.objects import protocols
from prefect_parallel_run.storage.paths import RUNS_FOLDER


def list_store(url: str) -> Iterator[ListedFile]:
    """Yield the object at *url*, all objects below it, or those that match a pattern with ``*``, ``?``, ``[…]``.

    Raises:
        InputError: Nothing exists there, or the store reports an error.
    """
    with _wrap_store_errors(url):
        location = _Location.parse(url)
        info = None if url.endswith("/") else location.info()
        if info is not None and info["type"] != "directory":
            yield location.object(location.name, info)
        elif info is None and glob.has_magic(location.name):
            yield from _matching(location)
        else:
            yield from _all_below(location, exists=info is not None)


def find_object(url: str) -> ListedFile | None:
    """Return the object at *url*, or None; raises InputError when the store reports an error."""
    with _wrap_store_errors(url):
        location = _Location.parse(url)
        info = location.info()
        return None if info is None or info["type"] == "directory" else location.object(location.name, info)


@contextmanager
def _wrap_store_errors(url: str) -> Iterator[None]:
    """Convert errors of a store's library to InputError."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(url, "does not exist") from error
    except Exception as error:  # the errors of store libraries have no common class
        raise InputError(url, f"cannot be read: {type(error).__name__}: {error}") from error


class _Location(NamedTuple):
    """A parsed URL."""

    store: Any  #: fsspec's file system
    name: str  #: path in the store, without a trailing slash
    prefix: str  #: turns a name into a URL

    @classmethod
    def parse(cls, url: str) -> _Location:
        store, name = store_of(url)
        store.invalidate_cache()
        name = name.rstrip("/")
        trimmed = url.rstrip("/")
        if glob.has_magic(name.lstrip("/").partition("/")[0]):
            raise InputError(url, "has a pattern instead of the bucket or the first folder; use patterns only below it")
        return cls(store, name, trimmed[: -len(name)] if name and trimmed.endswith(name) else "")

    def info(self) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self.store.info(self.name)
        except FileNotFoundError:
            return None
        return info

    def object(self, name: str, info: dict[str, Any]) -> ListedFile:
        """Return an object; raises InputError when its URL is ambiguous, or its store gives no version."""
        url = f"{self.prefix}{name}" if self.prefix else str(self.store.unstrip_protocol(name))
        version = version_in(info)
        if any(special in name for special in _SPECIAL):
            raise InputError(url, f"has one of {', '.join(_SPECIAL)} in its name, which the store's library interprets")
        if info["size"] is None or not version:
            raise InputError(url, "cannot be checked for changes: its store gives no size, or neither ETag nor time")
        return ListedFile(url, info["size"], version)


def _all_below(location: _Location, *, exists: bool) -> Iterator[ListedFile]:
    """Yield the objects below a folder; raises InputError when the folder does not exist."""
    for stored in _below(location, f"{location.name}/", depth=None):
        exists = True
        yield stored
    if not exists:
        raise InputError(f"{location.prefix}{location.name}", "does not exist")


def _matching(location: _Location) -> Iterator[ListedFile]:
    from fsspec.utils import glob_translate  # noqa: PLC0415  only patterns need it

    pattern = location.name
    matches = re.compile(glob_translate(pattern)).match
    magic = re.search(r"[*?\[]", pattern)
    literal = pattern[: magic.start()] if magic else pattern
    depth = None if "**" in pattern else pattern.count("/") - literal.count("/")
    for stored in _below(location, literal, depth):
        if matches(stored.path[len(location.prefix) :]):
            yield stored


def _below(location: _Location, start: str, depth: int | None) -> Iterator[ListedFile]:
    """Yield the objects whose names begin with *start*, at most *depth* folders below its last slash; skips hidden ones."""
    folder = start[: start.rindex("/") + 1]
    store = location.store
    entries = _pages(store, start, depth) if "s3" in protocols(store) else _walk(store, folder, depth)
    for name, info in entries:
        segments = name[len(folder) :].split("/")
        if name.startswith(start) and not any(segment.startswith(".") or segment == RUNS_FOLDER for segment in segments):
            yield location.object(name, info)


_SPECIAL = ("::", "?versionId=")


def _pages(store: Any, start: str, depth: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and metadata of S3 objects page by page: S3 returns them in order, and only one page is in memory."""
    bucket, _, prefix = start.partition("/")
    options: dict[str, Any] = {"Delimiter": "/"} if depth == 0 else {}
    while True:
        page = store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **options)
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # a marker that some tools create for a folder
                yield f"{bucket}/{entry['Key']}", {**entry, "size": entry["Size"]}
        if not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def _walk(store: Any, folder: str, depth: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and metadata folder by folder, for stores with folders."""
    try:
        entries = store.ls(folder, detail=True)
    except FileNotFoundError:  # the folder of a pattern
        return
    by_name = {f"{entry['name'].rstrip('/')}/" if entry["type"] == "directory" else entry["name"]: entry for entry in entries}
    store.invalidate_cache(folder)
    for name in sorted(by_name):
        if not name.endswith("/"):
            yield name, by_name[name]
        elif depth is None or depth > 0:
            yield from _walk(store, name, None if depth is None else depth - 1)
