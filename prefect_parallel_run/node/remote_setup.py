"""Prepares a node on another machine: preflight checks, and a bundle of the entry script's code.

The flow process makes the bundle. The node receives it in pieces, verifies it, and unpacks it once for all workers of its
machine: ``<cache>/bundles/<sha256>/`` is complete or does not exist. A member that would be written outside of it is refused.
The checks make a wrong setup fail in seconds, not after hours.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
import uuid
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from prefect_parallel_run._atomic import AtomicFile, atomic_folder
from prefect_parallel_run._locks import locked
from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.node.environments import cache_folder
from prefect_parallel_run.node.settings import Bundle
from prefect_parallel_run.runs.source_files import MOST_BYTES, MOST_FILES, SourceFile, SourceTree, is_regular
from prefect_parallel_run.storage.objects import file_sha256, sha256_of

_MAX_READS = 3  #: attempts to read a tree that changes meanwhile
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: time stamp of every file: modification times are not part of the code
_CODE = "the entry script's code"
_ADVICE = "exclude what the script does not need with .amlignore, and pass data as side_inputs"
_BLOCK = 1 << 20  #: bytes
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, ValueError)
_ENCRYPTED = 1  #: bit of a member's flags
_MOST_PACKED = MOST_BYTES + (64 << 20)  #: bytes of an archive; incompressible files plus names and headers


class _ChangedError(Exception):
    """The tree changed after it was listed; the argument is a path in it."""


def make_bundle(tree: SourceTree, folder: Path, check_cancelled: CheckCancelled = never_cancelled) -> Bundle:
    """Write the script's code to an archive in *folder*, created if necessary, and return the bundle.

    Equal source trees produce byte-identical bundles, so that the bundle's name, a hash, shows whether a node already has it.
    *check_cancelled* is called between blocks, and raises to stop.

    Raises:
        ValueError: The code cannot be bundled: it is too large, contains links or other special files, excludes its own
            script, or keeps changing while it is read.
        OutputError: The bundle cannot be written.
    """
    for _ in range(_MAX_READS):
        try:
            return _write_bundle(tree, folder, check_cancelled)
        except _ChangedError as error:
            changed = str(error)
    raise ValueError(f"{_CODE} changed while it was read: {changed}; {_ADVICE}")


def _write_bundle(tree: SourceTree, folder: Path, check_cancelled: CheckCancelled) -> Bundle:
    """Write the bundle; raises _ChangedError when the tree changes meanwhile."""
    files = _files(tree)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = AtomicFile(folder / "bundle", token=uuid.uuid4().hex, mode=0o600)  # code may hold secrets
        with file as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for member in files:
                    _add_file(archive, member, check_cancelled)
            source, script = (entry.relative_to(tree.top).as_posix() for entry in (tree.folder, tree.script))
            bundle = Bundle(sha256_of(target, check_cancelled), source, script)
            if changed := {*files} ^ {*_files(tree)}:
                raise _ChangedError(min(member.path for member in changed))
            file.path = folder / bundle.file_name
    except OSError as error:
        raise OutputError(str(folder), f"the script's bundle cannot be written: {error.strerror}") from error
    return bundle


def _files(tree: SourceTree) -> list[SourceFile]:
    """Return the files to bundle, sorted by name, without reading them; raises ValueError when they cannot be bundled."""
    files = sorted(islice(tree.files(), MOST_FILES + 1))
    _check_size(files)
    for file in files:
        if not is_regular(file):
            kind = "a link" if stat.S_ISLNK(file.mode) else "not a regular file"
            raise ValueError(f"{_CODE} cannot be sent to nodes: {file.path} is {kind}; exclude it or replace it by a file")
        try:
            file.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{_CODE} cannot be sent to nodes: the name of {file.path!r} is not valid UTF-8") from None
    if str(tree.script) not in {file.path for file in files}:
        raise ValueError(
            f"entry_script {str(tree.script)!r} cannot be sent to nodes: it is hidden, or excluded by .amlignore or .gitignore"
        )
    return files


def _check_size(files: list[SourceFile]) -> None:
    size = sum(file.size for file in files)
    if size > MOST_BYTES:
        shares = Counter[str]()
        for file in files:
            shares[file.path if file.size > MOST_BYTES // 10 else file.path.rpartition("/")[0]] += file.size
        largest = ", ".join(f"{path} ({share / 2**20:.0f} MB)" for path, share in shares.most_common(3))
        raise ValueError(f"{_CODE} is larger than {MOST_BYTES >> 20} MB; most of it is in {largest}; {_ADVICE}")
    if len(files) > MOST_FILES:
        counts = Counter(file.path.rpartition("/")[0] for file in files)
        largest = ", ".join(f"{path} ({count})" for path, count in counts.most_common(3))
        raise ValueError(f"{_CODE} has more than {MOST_FILES} files; most of them are in {largest}; {_ADVICE}")


def _add_file(archive: zipfile.ZipFile, file: SourceFile, check_cancelled: CheckCancelled) -> None:
    member = zipfile.ZipInfo(file.name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix, so that permissions are kept
    member.external_attr = (0o100755 if file.mode & 0o100 else 0o100644) << 16
    member.file_size = file.size
    with _open(file) as source, archive.open(member, "w") as target:
        remaining = file.size
        while remaining and (block := source.read(min(_BLOCK, remaining))):
            target.write(block)
            remaining -= len(block)
            check_cancelled()


def _open(file: SourceFile) -> IO[bytes]:
    """Open a file for reading, without following a link or waiting for a pipe that replaced it meanwhile."""
    try:
        return open(file.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
    except PermissionError as error:
        raise ValueError(f"{_CODE} cannot be sent to nodes: {file.path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise _ChangedError(file.path) from error


class BundleRefusedError(RuntimeError):
    """A code archive is damaged or unsafe; nothing of it is unpacked."""


def unpacked(cache: Path, sha256: str) -> Path | None:
    """Return the folder of an unpacked archive; None when it is not unpacked."""
    folder = _folder_of(cache, sha256)
    return folder if folder.is_dir() else None


def unpack(archive: Path, sha256: str, cache: Path) -> Path:
    """Unpack an archive unless that is done, and return the folder.

    Any number of threads and processes may call this at the same time: one unpacks, the others wait. A process that is killed
    while unpacking leaves nothing that another could mistake for a complete folder.

    Raises:
        BundleRefusedError: *archive* does not have this hash, or was not created by ``make_bundle``.
        OSError: The disk refuses it.
    """
    with archive.open("rb") as file:
        return _unpack(file, sha256, cache)


class Incoming:
    """Receives an archive in pieces, in an unnamed temporary file that disappears with the receiving process."""

    def __init__(self, cache: Path, sha256: str) -> None:
        self._cache, self._sha256 = cache, sha256
        self._file = tempfile.TemporaryFile(dir=_archives_folder(cache))  # noqa: SIM115  closed by close()
        self._size = 0

    def write(self, offset: int, data: bytes) -> None:
        """Write the piece that starts at byte *offset*; a piece may be sent more than once.

        Raises:
            BundleRefusedError: A piece is missing before it, or the archive is too large.
        """
        if offset > self._size:
            raise BundleRefusedError(
                f"code archive {self._sha256}: got a piece at offset {offset}, expected at most {self._size}"
            )
        self._size = max(self._size, offset + len(data))
        if self._size > _MOST_PACKED:
            raise BundleRefusedError(f"code archive {self._sha256} has more than {_MOST_PACKED} bytes")
        self._file.seek(offset)
        self._file.write(data)

    def unpack(self) -> Path:
        """Unpack the received archive and return the folder; raises as ``unpack`` does."""
        return _unpack(self._file, self._sha256, self._cache)

    def close(self) -> None:
        """Close and so delete the file."""
        self._file.close()

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _archives_folder(cache: Path) -> Path:
    folder = cache / "bundles"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _folder_of(cache: Path, sha256: str) -> Path:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise BundleRefusedError(f"expected a SHA-256 in hexadecimal, got {sha256!r}")
    return cache / "bundles" / sha256


def _unpack(file: IO[bytes], sha256: str, cache: Path) -> Path:
    target, folder = _folder_of(cache, sha256), _archives_folder(cache)
    with locked(folder / f"{sha256}.lock"):
        if target.is_dir():
            return target
        if sha256_of(file) != sha256:
            raise BundleRefusedError(f"code archive {sha256} was damaged in transit: its SHA-256 differs")
        try:
            with atomic_folder(target) as partial:
                _extract(file, partial)
        except _BROKEN as error:
            raise BundleRefusedError(f"code archive {sha256} is not a valid zip file: {error}") from error
    return target


def _extract(file: IO[bytes], folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check(members)
        for member in members:
            _extract_member(archive, member, folder / member.filename)


def _check(members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive with members that the flow process never creates."""
    if len(members) > MOST_FILES:
        raise BundleRefusedError(f"the code archive has {len(members)} members, more than {MOST_FILES}")
    if sum(member.file_size for member in members) > MOST_BYTES:
        raise BundleRefusedError(f"the code archive's members have more than {MOST_BYTES} bytes")
    names: set[str] = set()
    for member in members:
        name = member.orig_filename  # filename is cut at a NUL
        if not all(part not in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            raise BundleRefusedError(f"the code archive's member {name!r} is outside of its folder")
        is_plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & _ENCRYPTED
        if not is_plain or member.header_offset < 0:
            raise BundleRefusedError(f"the code archive's member {name!r} is encrypted or compressed by an unexpected method")
        if stat.S_IFMT(member.external_attr >> 16) != stat.S_IFREG:
            raise BundleRefusedError(f"the code archive's member {name!r} is not a regular file")
        if name in names:
            raise BundleRefusedError(f"the code archive contains {name!r} twice")
        names.add(name)


def _extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Extract one file; its actual bytes are counted, because the archive's size field may be wrong."""
    mode = 0o777 if member.external_attr >> 16 & 0o100 else 0o666
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except (FileExistsError, NotADirectoryError):
        raise BundleRefusedError(
            f"the code archive contains {member.filename!r} twice, by the rules of this file system"
        ) from None
    remaining = member.file_size
    with os.fdopen(descriptor, "wb") as target, archive.open(member) as source:
        while block := source.read(_BLOCK):
            remaining -= len(block)
            if remaining < 0:
                raise BundleRefusedError(f"the code archive's member {member.filename!r} is larger than declared")
            target.write(block)
    if remaining:
        raise BundleRefusedError(f"the code archive's member {member.filename!r} is smaller than declared")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightRequest:
    """The checks that a node shall run; paths are those of the flow process's machine."""

    run_directory: str
    mark: str  #: name of a file in the run directory, and its content
    places: tuple[tuple[str, str], ...]  #: required paths, each with the user's name for it
    script: str  #: path of the script
    script_sha256: str  #: "" when the code archive is used in any case
    bundle: str  #: SHA-256 of the bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightResult:
    """The answer of a node."""

    host: str
    missing: tuple[tuple[str, str], ...]  #: the required paths that it cannot read
    shares: bool  #: it sees the flow process's run directory and can write to it
    sees_script: bool  #: with the same content
    has_bundle: bool  #: it has the code archive unpacked


def run_checks(probe: PreflightRequest) -> PreflightResult:
    """Run the checks on this machine."""
    return PreflightResult(
        host=socket.gethostname(),
        missing=tuple((name, path) for name, path in probe.places if not os.access(path, os.R_OK)),
        shares=_shares(Path(probe.run_directory), probe.mark),
        sees_script=_sees_script(probe),
        has_bundle=unpacked(cache_folder(), probe.bundle) is not None,
    )


def _sees_script(probe: PreflightRequest) -> bool:
    """True when the script's path leads to the same content here."""
    if not probe.script_sha256:
        return False
    try:
        return file_sha256(probe.script) == probe.script_sha256
    except OSError:
        return False


def _shares(run_directory: Path, mark: str) -> bool:
    """True when this is the flow process's run directory, not another one of the same path, and parts can be written."""
    try:
        if (run_directory / mark).read_text() != mark:
            return False
        trial = run_directory / "parts" / f".{uuid.uuid4().hex}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, UnicodeDecodeError):
        return False
    return True
