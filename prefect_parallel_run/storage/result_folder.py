"""A result folder on disk or in a store: whether it may be replaced, whether its parts are unaltered, and old objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.storage.manifest import MANIFEST, ResultPart, is_part_name
from prefect_parallel_run.storage.objects import delete, file_sha256, list_store, names_below, size_and_version


def exists(location: str) -> bool:
    """True when there is a result, a file or a folder of parts, at a path or URL."""
    if not is_remote(location):
        return Path(location).exists()
    return size_and_version(location) is not None or MANIFEST in names_below(location)


def check_replaceable(location: str) -> None:
    """Raise OutputError when a path or URL is a folder with anything but parts of a result: a new result would delete it."""
    for name in _names_in(location):
        if not is_part_name(name):
            reason = f"is a folder with {name}, which is not part of a result and would be deleted; move it, or choose"
            raise OutputError(location, f"{reason} another append_row_file_name")


def _names_in(location: str) -> Iterator[str]:
    """Yield the names in a folder, if it is one; those of folders have a trailing slash."""
    if is_remote(location):
        itself = location.rpartition("/")[2]  # a store lists an object that has the name of the folder
        yield from (name for name in names_below(location) if name != itself)
    elif Path(location).is_dir():
        yield from (f"{entry.name}/" if entry.is_dir() else entry.name for entry in Path(location).iterdir())


def changes(folder: str, parts: Sequence[ResultPart], *, reads_objects: bool = False) -> Iterator[str]:
    """Yield one line per difference between the parts in a folder and those that were published.

    Args:
        folder: Path or URL of the result.
        parts: The parts in the receipt of the run.
        reads_objects: Read the objects of a store, too; otherwise their versions suffice.
    """
    try:
        found = _remote_sizes(folder) if is_remote(folder) else _local_sizes(folder)
    except (FileNotFoundError, NotADirectoryError, InputError):
        yield f"{folder} does not exist"
        return
    for part in parts:
        path = f"{folder}/{part.name}"
        if part.name not in found:
            yield f"{path} does not exist"
        elif found.pop(part.name) != (part.bytes, part.version) or (
            (reads_objects or not is_remote(path)) and file_sha256(path) != part.sha256
        ):
            yield f"{path} was changed after it was published: its size or SHA-256 differs"
    for name in sorted(found):
        yield f"{folder}/{name} is not a part of the result"


def _local_sizes(folder: str) -> dict[str, tuple[int, str]]:
    return {entry.name: (entry.stat().st_size, "") for entry in Path(folder).iterdir()}


def _remote_sizes(folder: str) -> dict[str, tuple[int, str]]:
    """Return size and version of the objects that the manifest lists; versions in listings may differ from those elsewhere."""
    if MANIFEST not in names_below(folder):
        raise FileNotFoundError(folder)
    return {file.path.rpartition("/")[2]: (file.size, str(file.version)) for file in list_store(f"{folder}/")}


def with_versions(url: str, parts: Sequence[ResultPart]) -> tuple[ResultPart, ...]:
    """Return the parts at *url* in a store with the versions of their objects; raises OutputError when one is missing."""
    found = _remote_sizes(url)
    for part in parts:
        if (size := found.get(part.name, ("no", ""))[0]) != part.bytes:
            raise OutputError(f"{url}/{part.name}", f"has {size} bytes, but {part.bytes} were written")
    return tuple(part._replace(version=found[part.name][1]) for part in parts)


def delete_stale(url: str, parts: Sequence[ResultPart]) -> None:
    """Delete what an earlier result has left at *url* in a store; *parts* are those of the new one, none if it is an object."""
    names = names_below(url)
    kept = {MANIFEST, *(part.name for part in parts)} if parts else set()
    if MANIFEST in names:  # deleted last: the next attempt continues where this one was interrupted
        stale = [name for name in names if is_part_name(name) and name not in kept]
        delete([f"{url}/{name}" for name in sorted(stale, key=lambda name: (name == MANIFEST, name))])
    if parts and size_and_version(url) is not None:
        delete([url])
