"""One result file from the committed ranges of the parts, in mini-batch order: complete or absent."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from prefect_parallel_run.errors import OutputError

_BLOCK = 8 << 20  #: bytes read and written at a time
_MOST_OPEN = 128  #: part files kept open


class PartRange(NamedTuple):
    """Where the rows of a mini-batch lie."""

    mini_batch: int
    part: Path
    offset: int
    header: int  #: bytes of header line in front
    length: int  #: bytes, header included
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

    def copy(self, part: Path, offset: int, length: int, write: Callable[[bytes], object], mini_batch: int) -> None:
        """Pass *length* bytes of *part* to *write*; raises OutputError when it is shorter than that."""
        descriptor = self._descriptor(part, mini_batch)
        while length:
            block = os.pread(descriptor, min(length, _BLOCK), offset)
            if not block:
                raise OutputError(
                    str(part), f"{part.name} ends at byte {offset}, before the rows of mini-batch {mini_batch} that it held"
                )
            write(block)
            offset += len(block)
            length -= len(block)

    def read(self, found: PartRange, start: int, length: int) -> bytes:
        """Return *length* bytes from *start* of a range."""
        held = io.BytesIO()
        self.copy(found.part, found.offset + start, length, held.write, found.mini_batch)
        return held.getvalue()

    def _descriptor(self, part: Path, mini_batch: int) -> int:
        descriptor = self._open.pop(part, None)
        if descriptor is None:
            if len(self._open) >= _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                reason = f"{part.name}, which held the rows of mini-batch {mini_batch}, cannot be read: {error.strerror}"
                raise OutputError(str(part), reason) from error
        self._open[part] = descriptor  # now the newest
        return descriptor


def _write_text(ranges: Iterable[PartRange], parts: Parts, file: IO[bytes]) -> int:
    """Write text of any format: the header of the first mini-batch that has one, then all rows; return their number."""
    rows = 0
    header: bytes | None = None
    for run, count in _runs(ranges):
        rows += count
        if run.header:
            found = parts.read(run, 0, run.header)
            if header is None:
                file.write(found)
            elif found != header:
                raise OutputError("", f"mini-batch {run.mini_batch} {_difference(header, found)}")
            header = found
        parts.copy(run.part, run.offset + run.header, run.length - run.header, file.write, run.mini_batch)
    return rows


def _runs(ranges: Iterable[PartRange]) -> Iterator[tuple[PartRange, int]]:
    """Yield ranges with neighbours in one part joined, and their rows; a million small ones become a few large ones.

    A range with a header is joined to nothing: its header has to be looked at and left out.
    """
    part, offset, end, rows, first = Path(), 0, 0, 0, 0
    pending = False
    for found in ranges:
        if found.header:
            if pending:
                yield PartRange(first, part, offset, 0, end - offset, rows), rows
                pending = False
            if found.length > found.header:
                yield found, found.rows
        elif pending and found.offset == end and found.part == part:
            end += found.length
            rows += found.rows
        else:
            if pending:
                yield PartRange(first, part, offset, 0, end - offset, rows), rows
            first, part, offset, rows = found.mini_batch, found.part, found.offset, found.rows
            end = offset + found.length
            pending = True
    if pending:
        yield PartRange(first, part, offset, 0, end - offset, rows), rows


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
