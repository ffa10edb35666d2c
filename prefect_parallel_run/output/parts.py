"""Reading the parts that children have written: ranges of bytes, each compared with its checksum as it passes."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from prefect_parallel_run.errors import OutputError

_BLOCK = 256 << 10  #: bytes read and written at a time: what a processor's own cache holds
_MOST_OPEN = 128  #: part files kept open


class PartRange(NamedTuple):
    """Where the rows of a mini-batch lie."""

    mini_batch: int
    part: Path
    offset: int
    header: int  #: bytes of header line, or of the schema of Parquet rows, in front
    length: int  #: bytes, header included
    crc: int  #: CRC-32 of these bytes
    rows: int


class Parts:
    """Part files, opened as they are needed; the least recently used are closed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._buffer = memoryview(bytearray(_BLOCK))

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def copy(self, ranges: Sequence[PartRange], write: Callable[[memoryview], object], skip: int = 0) -> None:
        """Pass the bytes of *ranges*, neighbours in one part, to *write*, the first *skip* left out.

        What is passed is only good during the call.

        Raises:
            OutputError: The part is shorter than that, or its bytes are not those that were committed.
        """
        first = ranges[0]
        descriptor = self._descriptor(first)
        offset, end = first.offset, ranges[-1].offset + ranges[-1].length
        check = _Check(ranges)
        while offset < end:
            length = os.preadv(descriptor, [self._buffer[: end - offset]], offset)
            if not length:
                words = (
                    f"{first.part.name} ends at byte {offset}, before the rows of mini-batch {check.mini_batch} that it held"
                )
                raise OutputError(str(first.part), words)
            view = self._buffer[:length]
            check.take(view)
            write(view[skip:])
            skip = max(skip - length, 0)
            offset += length

    def read(self, found: PartRange) -> bytes:
        """Return the bytes of a range."""
        held = io.BytesIO()
        self.copy([found], held.write)
        return held.getvalue()

    def head(self, found: PartRange) -> bytes:
        """Return the header of a range; its checksum is not looked at."""
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
