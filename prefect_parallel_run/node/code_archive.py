"""Bundles on a node: received in pieces, verified, unpacked once however many workers want it, and never in part.

``<cache>/bundles/<sha256>/`` is there whole or not at all. A member that would reach outside of it is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prefect_parallel_run.runs.source_files import MOST_BYTES, MOST_FILES

_BLOCK = 1 << 20  #: bytes
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, ValueError)
_ENCRYPTED = 1  #: among a member's flags
_MOST_PACKED = MOST_BYTES + (64 << 20)  #: bytes of an archive; what does not shrink has names and headers besides


class BundleRefusedError(RuntimeError):
    """A bundle is not what it should be; nothing of it is unpacked."""


def unpacked(cache: Path, sha256: str) -> Path | None:
    """Return the folder that a bundle is unpacked in, None when it is not."""
    folder = _place(cache, sha256)
    return folder if folder.is_dir() else None


def unpack(archive: Path, sha256: str, cache: Path) -> Path:
    """Return the folder that the bundle is unpacked in, and unpack it first unless that is done.

    Any number of threads and processes may ask at once: one does it, the others wait. One that was killed in the middle
    leaves nothing that another could take for whole.

    Raises:
        BundleRefusedError: *archive* is not the bundle of this hash, or not one that we would make.
        OSError: The disk does not take it.
    """
    with archive.open("rb") as file:
        return _unpack(file, sha256, cache)


class Incoming:
    """A bundle that arrives in pieces; has a file of its own, without a name, which is gone with whoever receives it.

    Args:
        cache: Folder for what is kept on this node.
        sha256: Of the bundle.
    """

    def __init__(self, cache: Path, sha256: str) -> None:
        self._cache, self._sha256 = cache, sha256
        self._file = tempfile.TemporaryFile(dir=_folder(cache))  # noqa: SIM115  closed by close()
        self._size = 0

    def take(self, offset: int, data: bytes) -> None:
        """Take the piece that begins at *offset*, bytes; one that came before may come again.

        Raises:
            BundleRefusedError: A piece is missing before it, or the bundle is too large.
        """
        if offset > self._size:
            raise BundleRefusedError(f"bundle {self._sha256}: a piece at {offset} came when there were {self._size} bytes")
        self._size = max(self._size, offset + len(data))
        if self._size > _MOST_PACKED:
            raise BundleRefusedError(f"bundle {self._sha256} has over {_MOST_PACKED} bytes")
        self._file.seek(offset)
        self._file.write(data)

    def unpack(self) -> Path:
        """Return the folder that the bundle is now unpacked in; raises as ``unpack`` does."""
        return _unpack(self._file, self._sha256, self._cache)

    def close(self) -> None:
        """Give the file up."""
        self._file.close()

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _folder(cache: Path) -> Path:
    folder = cache / "bundles"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _place(cache: Path, sha256: str) -> Path:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise BundleRefusedError(f"{sha256!r} is no SHA-256")
    return cache / "bundles" / sha256


def _unpack(file: IO[bytes], sha256: str, cache: Path) -> Path:
    place, folder = _place(cache, sha256), _folder(cache)
    with _locked(folder / f"{sha256}.lock"):
        if place.is_dir():
            return place
        if _sha256(file) != sha256:
            raise BundleRefusedError(f"bundle {sha256} has not arrived as it was sent: its bytes have another SHA-256")
        beside = folder / f".{sha256}.partial"
        shutil.rmtree(beside, ignore_errors=True)  # of one who was killed: the lock is ours
        try:
            _extract(file, beside)
            beside.rename(place)
        except _BROKEN as error:
            raise BundleRefusedError(f"bundle {sha256} is no archive: {error}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return place


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which the system gives up when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(file: IO[bytes]) -> str:
    total = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()


def _extract(file: IO[bytes], folder: Path) -> None:
    """Write the members of an archive to *folder*, which is new."""
    folder.mkdir()
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check(members)
        for member in members:
            _extract_member(archive, member, folder / member.filename)


def _check(members: list[zipfile.ZipInfo]) -> None:
    """Refuse what no bundle of ours has in it."""
    if len(members) > MOST_FILES:
        raise BundleRefusedError(f"the bundle has {len(members)} members, over {MOST_FILES}")
    if sum(member.file_size for member in members) > MOST_BYTES:
        raise BundleRefusedError(f"the bundle has over {MOST_BYTES} bytes in it")
    names: set[str] = set()
    for member in members:
        name = member.orig_filename  # filename is cut at a NUL
        if not all(part not in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            raise BundleRefusedError(f"the bundle's member {name!r} does not lie inside it")
        is_plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & _ENCRYPTED
        if not is_plain or member.header_offset < 0:
            raise BundleRefusedError(f"the bundle's member {name!r} is stored in a way that we never use")
        if stat.S_IFMT(member.external_attr >> 16) != stat.S_IFREG:
            raise BundleRefusedError(f"the bundle's member {name!r} is no regular file")
        if name in names:
            raise BundleRefusedError(f"the bundle has {name!r} in it twice")
        names.add(name)


def _extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one file; its true bytes are counted, whatever the archive says of them."""
    mode = 0o777 if member.external_attr >> 16 & 0o100 else 0o666
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except (FileExistsError, NotADirectoryError):
        raise BundleRefusedError(f"the bundle has {member.filename!r} in it twice, as far as this disk can tell") from None
    left = member.file_size
    with os.fdopen(descriptor, "wb") as target, archive.open(member) as source:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise BundleRefusedError(f"the bundle's member {member.filename!r} is larger than the bundle says")
            target.write(block)
    if left:
        raise BundleRefusedError(f"the bundle's member {member.filename!r} is smaller than the bundle says")
