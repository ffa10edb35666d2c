"""Where the records of a text file end: exactly where pandas' C parser ends them, found at the speed of numpy.

Quotes are followed by parity: outside quotes there has been an even number of them. That is right as long as every quote
opens or closes a field or is doubled; a block where one does not (``5" pipe``) is scanned state by state instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 24  #: bytes read at a time
_NEWLINE, _RETURN = 0x0A, 0x0D
_BLANKS = (0x20, 0x09)
BOM = b"\xef\xbb\xbf"

Positions = npt.NDArray[np.int64]


class Ends(NamedTuple):
    """Record ends of one block."""

    start: int  #: where the first of the records begins in the file
    offsets: Positions  #: in the file, one past each record's terminator
    filled: npt.NDArray[np.bool_]  #: False for blank lines, which are no records


class UnterminatedQuoteError(ValueError):
    """The file ends inside a quoted field."""


def record_ends(path: Path, *, delimiter: bytes = b",", quote: bytes = b"", lone_returns: bool = True) -> Iterator[Ends]:
    """Yield where the records of *path* end, block by block, a byte order mark left out.

    Args:
        path: A file in UTF-8, or another encoding in which ASCII stands for itself.
        delimiter: Between fields; one byte. Matters only next to quotes.
        quote: One byte, or empty for none (JSON lines).
        lone_returns: A carriage return alone ends a record too.

    Raises:
        UnterminatedQuoteError: As its name says.
    """
    inside = False
    begin = -1  # where the first record begins that has not been yielded yet
    for offset, block, is_last in _blocks(path):
        begin = offset if begin < 0 else begin
        data = np.frombuffer(block, dtype=np.uint8)
        breaks, inside = _breaks(block, data, inside, delimiter, quote, lone_returns=lone_returns)
        ends = breaks + 1
        if is_last and inside:
            raise UnterminatedQuoteError
        if is_last and (not len(ends) or ends[-1] < len(data)):
            ends = np.append(ends, len(data))
        if len(ends):
            filled = _filled(data, ends, delimiter)
            filled[0] |= begin < offset  # it began in a block before, inside quotes: no blank line does
            yield Ends(begin, ends + offset, filled)
            begin = offset + int(ends[-1])


def _blocks(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield offset, bytes, and whether it is the last, of blocks that end behind a newline (or at the file's end)."""
    with path.open("rb") as file:
        offset = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(offset)
        rest = b""
        while True:
            read = file.read(_BLOCK)
            block = rest + read
            cut = block.rfind(b"\n") + 1 if read else len(block)
            if not read:
                if block:
                    yield offset, block, True
                return
            rest = block[cut:]
            if cut:
                is_last = not rest and not file.peek(1)
                yield offset, block[:cut], is_last
                offset += cut
                if is_last:
                    return


def _breaks(
    block: bytes, data: npt.NDArray[np.uint8], inside: bool, delimiter: bytes, quote: bytes, *, lone_returns: bool = True
) -> tuple[Positions, bool]:
    """Return the positions of the bytes that end a record, and whether the block ends inside quotes."""
    breaks = np.flatnonzero(data == _NEWLINE)
    if lone_returns and _RETURN in block:
        returns = np.flatnonzero(data == _RETURN)
        following = np.append(data, 0)[returns + 1]
        breaks = np.sort(np.concatenate((breaks, returns[following != _NEWLINE])))
    if not quote or (not inside and quote not in block):
        return (breaks if not inside else breaks[:0]), inside
    quotes = np.flatnonzero(data == quote[0])
    if not _is_regular(data, quotes, inside, delimiter[0], quote[0]):
        return _scan(block, inside, delimiter, quote)
    before = np.searchsorted(quotes, breaks) + inside
    return breaks[before % 2 == 0], bool((len(quotes) + inside) % 2)


def _is_regular(data: npt.NDArray[np.uint8], quotes: Positions, inside: bool, delimiter: int, quote: int) -> bool:
    """True when every quote opens a field at its start, closes one at its end, or is one of a doubled pair."""
    around = np.concatenate(([_NEWLINE], data, [_NEWLINE]))
    opening, closing = (quotes[1::2], quotes[0::2]) if inside else (quotes[0::2], quotes[1::2])
    borders = np.array([delimiter, _NEWLINE, _RETURN], dtype=np.uint8)
    before, after = around[opening], around[closing + 2]
    return bool((np.isin(before, borders) | (before == quote)).all() and (np.isin(after, borders) | (after == quote)).all())


def _scan(block: bytes, inside: bool, delimiter: bytes, quote: bytes) -> tuple[Positions, bool]:
    """Return what _breaks returns, following pandas' tokenizer state by state."""
    special = re.compile(b"[" + re.escape(quote + delimiter) + rb"\n\r]")
    found: list[int] = []
    field_start = 0 if not inside else -1
    position = 0
    length = len(block)
    while position < length:
        match = special.search(block, position)
        if match is None:
            break
        position, byte = match.start(), match.group()
        if inside:
            if byte != quote:
                position += 1
            elif block[position + 1 : position + 2] == quote:
                position += 2
            else:
                inside, field_start = False, -1
                position += 1
        elif byte == quote:
            inside = position == field_start
            position += 1
        elif byte == delimiter:
            position += 1
            field_start = position
        else:
            if byte == b"\r" and block[position + 1 : position + 2] == b"\n":
                position += 1
            found.append(position)
            position += 1
            field_start = position
    return np.array(found, dtype=np.int64), inside


def _filled(data: npt.NDArray[np.uint8], ends: Positions, delimiter: bytes) -> npt.NDArray[np.bool_]:
    """Return which records are more than blanks; the delimiter is no blank, even if it is a tab."""
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    first = data[starts]
    filled = (first != _NEWLINE) & (first != _RETURN)
    blanks = [blank for blank in _BLANKS if blank != delimiter[0]]
    for index in np.flatnonzero(np.isin(first, np.array(blanks, dtype=np.uint8))):
        filled[index] = bool(data[starts[index] : ends[index]].tobytes().strip(bytes([*blanks, _NEWLINE, _RETURN])))
    return np.asarray(filled, dtype=np.bool_)
