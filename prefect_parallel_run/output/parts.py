"""Reads the part files of the children: byte ranges, each verified against its checksum."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.runs.ledger import Place

_BLOCK = 256 << 10  #: bytes read and written at a time: fits into the cache of a processor
_MAX_OPEN = 128  #: part files kept open

StoredRows = Place | Receipt  #: both say where the rows of a mini-batch are


class Parts:
    """The part files in *folder*, opened on demand; the least recently used are closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()
        self._buffer = memoryview(bytearray(_BLOCK))

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def copy(self, ranges: Sequence[StoredRows], write: Callable[[memoryview], object], skip: int = 0) -> None:
        """Pass the bytes of *ranges*, which are adjacent in one part, to *write*, without the first *skip* bytes.

        The memoryview passed to *write* is valid only during the call.

        Raises:
            OutputError: The part is too short, or its bytes differ from the committed ones.
        """
        first = ranges[0]
        descriptor = self._descriptor(first)
        offset, end = first.offset, ranges[-1].offset + ranges[-1].length
        check = _Check(ranges, self.path(first))
        while offset < end:
            length = os.preadv(descriptor, [self._buffer[: end - offset]], offset)
            if not length:
                reason = f"{first.part} ends at byte {offset}, before the end of the rows of mini-batch {check.mini_batch}"
                raise OutputError(self.path(first), reason)
            view = self._buffer[:length]
            check.update(view)
            write(view[skip:])
            skip = max(skip - length, 0)
            offset += length

    def read(self, place: StoredRows) -> bytes:
        """Return the bytes of a range."""
        buffer = io.BytesIO()
        self.copy([place], buffer.write)
        return buffer.getvalue()

    def head(self, place: StoredRows) -> bytes:
        """Return the header of a range without verifying the checksum."""
        return os.pread(self._descriptor(place), place.header, place.offset)

    def path(self, place: StoredRows) -> str:
        """Return the path of the part file with the rows."""
        return str(self._folder / place.part)

    def _descriptor(self, place: StoredRows) -> int:
        descriptor = self._open.pop(place.part, None)
        if descriptor is None:
            if len(self._open) >= _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                descriptor = os.open(self.path(place), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                reason = f"{place.part} with the rows of mini-batch {place.mini_batch} cannot be read: {error.strerror}"
                raise OutputError(self.path(place), reason) from error
        self._open[place.part] = descriptor  # now the most recently used
        return descriptor


class _Check:
    """Verifies the checksums of adjacent ranges block by block."""

    def __init__(self, ranges: Sequence[StoredRows], path: str) -> None:
        self._path = path
        self._ranges = iter([place for place in ranges if place.length])
        self._remaining = self._crc = 0
        self._next()

    @property
    def mini_batch(self) -> int:
        """Return the mini-batch whose bytes are expected next."""
        return self._current.mini_batch if self._current is not None else -1

    def update(self, block: memoryview) -> None:
        """Process the next bytes; raises OutputError if a range that ends in them has another checksum."""
        position = 0
        while self._current is not None and position < len(block):
            piece = block[position : position + self._remaining]
            self._crc = crc32(piece, self._crc)
            self._remaining -= len(piece)
            position += len(piece)
            if not self._remaining:
                if self._crc != self._current.crc:
                    reason = (
                        f"{self._current.part} was altered: the checksum of the rows of mini-batch {self.mini_batch} differs"
                    )
                    raise OutputError(self._path, reason)
                self._next()

    def _next(self) -> None:
        self._current = next(self._ranges, None)
        self._remaining = self._current.length if self._current is not None else 0
        self._crc = 0
