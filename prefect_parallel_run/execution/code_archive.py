"""A bundle: the entry script's code as one file, which travels to nodes that cannot read it where it lies.

Two trees that are equal give the same bundle, byte for byte, so that its name, a hash, tells whether a node has it already.
Paths in it begin at the folder that must be importable; ``node/bundles.py`` unpacks it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.runs.fingerprint import source_tree
from prefect_parallel_run.runs.source_files import MOST_BYTES, MOST_FILES, SourceFile, SourceTree, is_regular

_BLOCK = 1 << 20  #: bytes
_READINGS = 3  #: of a tree that changes while it is read
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: of every file: when it was written is not part of the code
_WHAT = "the entry script's code"
_ADVICE = "leave out what the script does not need with .amlignore, and give data as side_inputs"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was made."""

    path: Path
    sha256: str  #: of the file
    size: int  #: of the file, bytes
    source: str  #: where, below the folder that it is unpacked to, the importable folder is; "." for that one itself
    script: str  #: the same of the script


class _ChangedError(Exception):
    """The tree is no longer what it was when it was listed; the argument is a path in it."""


def make_bundle(config: ParallelRunConfig, folder: Path, check_cancelled: Callable[[], None] = lambda: None) -> Bundle:
    """Write the code of *config*'s script to ``bundle-<sha256>.zip`` in *folder*, and return what it is.

    Args:
        config: Names source_directory and script.
        folder: For bundles; made if need be.
        check_cancelled: Called between blocks; raises to stop.

    Raises:
        ValueError: The code cannot travel: it is too large, has links or other things than files in it, its own script is
            among what is ignored, or it does not stay as it is for as long as it takes to read it.
        OutputError: The bundle cannot be written.
    """
    tree = source_tree(config)
    for _ in range(_READINGS):
        try:
            return _made(tree, folder, check_cancelled)
        except _ChangedError as error:
            changed = str(error)
    raise ValueError(f"{_WHAT} changes while it is read: {changed}; {_ADVICE}")


def _made(tree: SourceTree, folder: Path, check_cancelled: Callable[[], None]) -> Bundle:
    """Write the bundle of a tree that is the same before and after; raises _ChangedError."""
    files = _files(tree)
    with _new_file(folder) as (beside, target):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                _add(archive, file, check_cancelled)
        sha256, size = _sha256(target, check_cancelled), target.tell()
        target.flush()
        if changed := {*files} ^ {*_files(tree)}:
            raise _ChangedError(min(file.path for file in changed))
        path = beside.replace(folder / f"bundle-{sha256}.zip")
    source, script = (place.relative_to(tree.top).as_posix() for place in (tree.folder, tree.script))
    return Bundle(path, sha256, size, source, script)


def _files(tree: SourceTree) -> list[SourceFile]:
    """Return the files that travel, by their names; raises ValueError when they cannot. Nothing is read yet."""
    files = sorted(islice(tree.files(), MOST_FILES + 1))
    _check_size(files)
    for file in files:
        if not is_regular(file):
            kind = "a link" if stat.S_ISLNK(file.mode) else "no regular file"
            raise ValueError(f"{_WHAT} cannot travel: {file.path} is {kind}; ignore it, or put a file in its place")
        try:
            file.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{_WHAT} cannot travel: the name of {file.path!r} is no text in UTF-8") from None
    if str(tree.script) not in {file.path for file in files}:
        raise ValueError(
            f"entry_script {str(tree.script)!r} cannot travel: it is hidden, or .amlignore or .gitignore leaves it out"
        )
    return files


def _check_size(files: list[SourceFile]) -> None:
    size = sum(file.size for file in files)
    if size > MOST_BYTES:
        shares = Counter[str]()
        for file in files:
            shares[file.path if file.size > MOST_BYTES // 10 else file.path.rpartition("/")[0]] += file.size
        named = ", ".join(f"{path} ({share / 2**20:.0f} MB)" for path, share in shares.most_common(3))
        raise ValueError(f"{_WHAT} has over {MOST_BYTES >> 20} MB in it; most are in {named}; {_ADVICE}")
    if len(files) > MOST_FILES:
        counts = Counter(file.path.rpartition("/")[0] for file in files)
        named = ", ".join(f"{path} ({count})" for path, count in counts.most_common(3))
        raise ValueError(f"{_WHAT} has over {MOST_FILES} files in it; many are in {named}; {_ADVICE}")


@contextmanager
def _new_file(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Give a file of its own name in *folder*, removed at the end unless it has been renamed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w+b", prefix=".bundle.", suffix=".tmp", dir=folder, delete=False) as file:
            beside = Path(file.name)
            try:
                yield beside, file
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(str(folder), f"cannot take the bundle of the script: {error.strerror}") from error


def _add(archive: zipfile.ZipFile, file: SourceFile, check_cancelled: Callable[[], None]) -> None:
    member = zipfile.ZipInfo(file.name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix: there are permissions
    member.external_attr = (0o100755 if file.mode & 0o100 else 0o100644) << 16
    member.file_size = file.size
    with _opened(file) as source, archive.open(member, "w") as target:
        left = file.size
        while left and (block := source.read(min(_BLOCK, left))):
            target.write(block)
            left -= len(block)
            check_cancelled()


def _opened(file: SourceFile) -> IO[bytes]:
    """Open a file for reading; what has come into its place meanwhile, a link or a pipe, is not followed or waited for."""
    try:
        return open(file.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
    except PermissionError as error:
        raise ValueError(f"{_WHAT} cannot travel: {file.path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise _ChangedError(file.path) from error


def _sha256(file: IO[bytes], check_cancelled: Callable[[], None]) -> str:
    """Return the hash over what was written, which is then at its end again."""
    total = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        total.update(block)
        check_cancelled()
    return total.hexdigest()
