"""Lists, reads, writes and deletes objects by URL; errors of a store become OutputError, or InputError for an input."""

from __future__ import annotations

import glob
import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote, open_file, store_of, version_in
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.manifest import MANIFEST, decode
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_BLOCK = 1 << 20  #: bytes per read
_PIECE = 32 << 20  #: bytes per uploaded piece
_MOST_PIECES = 9_000  #: maximum pieces of an object; S3 accepts 10,000
_ATOMIC_UPLOADS = {"s3", "gs", "gcs"}  #: stores where an object appears once all its pieces are uploaded, without folders
_SPECIAL = ("::", "?versionId=")  #: in the name of an object


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


def delete(urls: list[str]) -> None:
    """Delete objects."""
    for url in urls:
        with wrap_store_errors(url, "deleted"):
            store, name = store_of(url)
            store.rm_file(name)


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
    """Yield the objects whose names begin with *start*, at most *depth* folders below its last slash; skips hidden ones.

    Of a result folder, only the parts that its manifest lists: others belong to a result that was replaced, or is incomplete.
    """
    folder = start[: start.rindex("/") + 1]
    store = location.store
    entries = _pages(store, start, depth) if "s3" in protocols(store) else _walk(store, folder, depth)
    # Names of the parts of result folders. A manifest precedes them in the order of names, but may not begin with *start*.
    complete: dict[str, set[str]] = {}
    if start != folder:
        with suppress(FileNotFoundError):
            complete[folder.rstrip("/")] = _listed_parts(store, f"{folder}{MANIFEST}")
    for name, info in entries:
        parent, _, base = name.rpartition("/")
        segments = name[len(folder) :].split("/")
        if not name.startswith(start) or any(segment.startswith(".") or segment == RUNS_FOLDER for segment in segments):
            continue
        if base == MANIFEST:
            complete[parent] = _listed_parts(store, name)
        elif parent not in complete or base in complete[parent]:
            yield location.object(name, info)


def _listed_parts(store: Any, manifest: str) -> set[str]:
    """Return the names of the parts that a manifest lists; raises FileNotFoundError if it does not exist."""
    return {part.name for part in decode(store.cat_file(manifest))}


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
