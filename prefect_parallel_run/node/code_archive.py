"""Code archives on a node: received in pieces, verified, and unpacked completely, once for all workers.

``<cache>/bundles/<sha256>/`` is complete or does not exist. A member that would be written outside of it is refused.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from prefect_parallel_run._atomic import atomic_folder
from prefect_parallel_run._locks import locked
from prefect_parallel_run.runs.source_files import MOST_BYTES, MOST_FILES
from prefect_parallel_run.storage.objects import sha256_of

_BLOCK = 1 << 20  #: bytes
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, ValueError)
_ENCRYPTED = 1  #: bit of a member's flags
_MOST_PACKED = MOST_BYTES + (64 << 20)  #: bytes of an archive; incompressible files plus names and headers


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
        BundleRefusedError: *archive* does not have this hash, or was not created by code_archive.py of the flow process.
        OSError: The disk refuses it.
    """
    with archive.open("rb") as file:
        return _unpack(file, sha256, cache)


class Incoming:
    """Receives an archive in pieces, in an unnamed temporary file that disappears with the receiving process.

    Args:
        cache: The cache folder of this node.
        sha256: Hash of the archive.
    """

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
