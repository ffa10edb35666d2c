"""One result file from the committed ranges of the parts, in mini-batch order: complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple
from zlib import crc32

import pyarrow as pa

from prefect_parallel_run.errors import OutputError

_BLOCK = 8 << 20  #: bytes read and written at a time
_MOST_OPEN = 128  #: part files kept open
_MOST_TOGETHER = 4_096  #: ranges read at once


class PartRange(NamedTuple):
    """Where the rows of a mini-batch lie."""

    mini_batch: int
    part: Path
    offset: int
    header: int  #: bytes of header line in front
    length: int  #: bytes, header included
    crc: int  #: CRC-32 of these bytes
    rows: int


class Published(NamedTuple):
    """A result file."""

    bytes: int
    sha256: str
    rows: int


def publish(ranges: Iterable[PartRange], target: Path, row_format: str, token: str) -> Published:
    """Put *ranges* together, in the order given, beside *target*, and rename the whole into place.

    Args:
        ranges: Of all mini-batches that succeeded.
        target: The result file; what was there before is replaced at the very end.
        row_format: ``text``, ``csv``, ``jsonl`` or ``parquet``.
        token: Keeps the file beside apart from those of other runs.

    Raises:
        OutputError: It cannot be written, a part is not what the ledger says, or the columns of two mini-batches differ.
            What was there before is unchanged.
    """
    beside = target.with_name(f".{target.name}.{token}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w+b") as file, Parts() as parts:
            if row_format == "parquet":
                from prefect_parallel_run.output.parquet import write_parquet  # noqa: PLC0415  Arrow only when asked for

                rows = write_parquet(list(ranges), parts, file)
            else:
                rows = _write_text(ranges, parts, file)
            file.flush()
            os.fsync(file.fileno())
        size, sha256 = beside.stat().st_size, file_sha256(beside)
        beside.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(str(target), f"cannot be written: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise OutputError(str(target), f"cannot be written as {row_format}: {error}") from error
    except OutputError as error:
        raise OutputError(str(target), error.reason) from error
    finally:
        with suppress(OSError):  # what could not be made, or is in place already; must not hide the first error
            beside.unlink()
    return Published(size, sha256, rows)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


class Parts:
    """Part files, opened as they are needed; the least recently used are closed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def copy(self, ranges: Sequence[PartRange], write: Callable[[memoryview], object], skip: int = 0) -> None:
        """Pass the bytes of *ranges*, neighbours in one part, to *write*, the first *skip* left out.

        Raises:
            OutputError: The part is shorter than that, or its bytes are not those that were committed.
        """
        first = ranges[0]
        descriptor = self._descriptor(first)
        offset, end = first.offset, ranges[-1].offset + ranges[-1].length
        check = _Check(ranges)
        while offset < end:
            block = os.pread(descriptor, min(end - offset, _BLOCK), offset)
            if not block:
                words = (
                    f"{first.part.name} ends at byte {offset}, before the rows of mini-batch {check.mini_batch} that it held"
                )
                raise OutputError(str(first.part), words)
            view = memoryview(block)
            check.take(view)
            write(view[skip:])
            skip = max(skip - len(block), 0)
            offset += len(block)

    def read(self, found: PartRange) -> bytes:
        """Return the bytes of a range."""
        held = io.BytesIO()
        self.copy([found], held.write)
        return held.getvalue()

    def head(self, found: PartRange) -> bytes:
        """Return the header line of a range; its checksum is not looked at."""
        return os.pread(self._descriptor(found), found.header, found.offset)

    def _descriptor(self, found: PartRange) -> int:
        descriptor = self._open.pop(found.part, None)
        if descriptor is None:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                descriptor = os.open(found.part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                words = f"{found.part.name}, which held the rows of mini-batch {found.mini_batch}, cannot be read"
                raise OutputError(str(found.part), f"{words}: {error.strerror}") from error
        self._open[found.part] = descriptor  # now the newest
        return descriptor


class _Check:
    """Compares the bytes of neighbouring ranges with their checksums, as they pass."""

    def __init__(self, ranges: Sequence[PartRange]) -> None:
        self._ranges = iter([found for found in ranges if found.length])
        self._left = self._crc = 0
        self._next()

    @property
    def mini_batch(self) -> int:
        """Return whose bytes are expected next."""
        return self._current.mini_batch if self._current is not None else -1

    def take(self, block: memoryview) -> None:
        """Take note of the next bytes; raises OutputError when a range that ends in them is not what it was."""
        at = 0
        while self._current is not None and at < len(block):
            piece = block[at : at + self._left]
            self._crc = crc32(piece, self._crc)
            self._left -= len(piece)
            at += len(piece)
            if not self._left:
                if self._crc != self._current.crc:
                    part = self._current.part
                    words = f"{part.name} has been altered: it does not hold the rows of mini-batch {self.mini_batch} any more"
                    raise OutputError(str(part), words)
                self._next()

    def _next(self) -> None:
        self._current = next(self._ranges, None)
        self._left = self._current.length if self._current is not None else 0
        self._crc = 0


def _write_text(ranges: Iterable[PartRange], parts: Parts, file: IO[bytes]) -> int:
    """Write text of any format: the header of the first mini-batch that has one, then all rows; return their number."""
    rows = 0
    header: bytes | None = None
    for run in _runs(ranges):
        rows += sum(found.rows for found in run)
        first = run[0]
        if first.header:
            found = parts.head(first)
            if header is None:
                file.write(found)
            elif found != header:
                raise OutputError("", f"mini-batch {first.mini_batch} {_difference(header, found)}")
            header = found
        parts.copy(run, file.write, first.header)
    return rows


def _runs(ranges: Iterable[PartRange]) -> Iterator[list[PartRange]]:
    """Yield ranges with neighbours in one part together, so that many small ones are read at once.

    A range with a header stands alone: its header has to be looked at and left out.
    """
    run: list[PartRange] = []
    for found in ranges:
        if run and not (
            found.part == run[-1].part
            and found.offset == run[-1].offset + run[-1].length
            and not found.header
            and not run[0].header
            and len(run) < _MOST_TOGETHER
        ):
            yield run
            run = []
        run.append(found)
    if run:
        yield run


def _difference(header: bytes, found: bytes) -> str:
    """Return in words how the columns of a mini-batch differ from those before."""
    before, now = header.decode("utf-8", "replace").rstrip("\n"), found.decode("utf-8", "replace").rstrip("\n")
    for number, (one, other) in enumerate(zip(before.split(","), now.split(","), strict=False), 1):
        if one != other:
            return f"has column {other!r} where the mini-batches before have {one!r} (column {number})"
    return f"has the columns {now!r} where the mini-batches before have {before!r}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
