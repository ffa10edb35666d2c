"""Where the records of a text file end: exactly where pandas' C parser ends them, found at the speed of numpy.

Quotes are followed by parity: outside quotes there has been an even number of them. That is right as long as every quote
opens or closes a field or is doubled; a block where one does not (``5" pipe``) is scanned state by state instead
(child/dialect.py). Escaped bytes are taken for letters beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from prefect_parallel_run.child.csv_dialect import ESCAPED, FIELD, QUOTED, START, Dialect, scan
from prefect_parallel_run.child.text import BOM

_BLOCK = 1 << 24  #: bytes read at a time
_NEWLINE, _RETURN = 0x0A, 0x0D
_NEUTRAL = 0xFF  #: no delimiter, quote or line end
_LONGEST = 1 << 30  #: bytes of a record; one that is longer is a missing quote

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Records(NamedTuple):
    """Some whole records of a text."""

    start: int  #: where the first of them begins in the text
    ends: Positions  #: in the text, one past each record's terminator
    filled: npt.NDArray[np.bool_]  #: False for blank lines, which are no records
    data: bytes  #: the text from the first record's start to the last one's end

    def behind(self, number: int) -> Records:
        """Return the records behind the first *number* of them."""
        start = int(self.ends[number - 1])
        return Records(start, self.ends[number:], self.filled[number:], self.data[start - self.start :])


class Source(Protocol):
    """What text is read from, forward: an open file, or a TextStream."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""


class UnfinishedRecordError(ValueError):
    """The text ends inside quotes or behind an escape character, or a record is too long to be one."""


def record_ends(source: Source, dialect: Dialect, *, lone_returns: bool = True, has_mark: bool = True) -> Iterator[Records]:
    """Yield the records of *source*, some at a time.

    Args:
        source: A text in UTF-8, or another encoding in which ASCII stands for itself.
        dialect: What quotes and escapes there are; none in JSON lines.
        lone_returns: A carriage return alone ends a record too.
        has_mark: The three bytes of a byte order mark in UTF-8 at the beginning are one, and left out.

    Raises:
        UnfinishedRecordError: As its name says.
    """
    state = START
    held: list[bytes] = []  # of the record that has not ended yet
    begin = 0
    for offset, block, is_last in _blocks(source, has_mark=has_mark, lone_returns=lone_returns):
        begin = begin if held else offset
        breaks, state = _breaks(block, state, dialect, lone_returns=lone_returns)
        ends = breaks + 1
        whole = int(ends[-1]) if len(ends) else 0
        if is_last:
            _check_end(state)
            if whole < len(block) or (held and not whole):
                ends, whole = np.append(ends, len(block)), len(block)
        if not len(ends):
            held.append(block)
            if offset + len(block) - begin > _LONGEST:
                raise UnfinishedRecordError(f"has a record of over {_LONGEST >> 20} MiB; is a closing quote missing?")
            continue
        data = block if not held and whole == len(block) else b"".join((*held, block[:whole]))
        ends += offset - begin
        yield Records(begin, ends + begin, _filled(data, ends, dialect), data)
        held = [block[whole:]] if whole < len(block) else []
        begin = offset + whole


def _check_end(state: int) -> None:
    if state == QUOTED:
        raise UnfinishedRecordError("ends inside a quoted field; a closing quote is missing")
    if state == ESCAPED:
        raise UnfinishedRecordError("ends with an escape character")


def _blocks(source: Source, *, has_mark: bool, lone_returns: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Yield offset, bytes, and whether it is the last, of blocks that end behind a line end; the last one may be empty."""
    rest = source.read(len(BOM))
    offset = 0
    if has_mark and rest == BOM:
        offset, rest = len(BOM), b""
    parts = [rest]
    while read := source.read(_BLOCK):
        cut = _last_line_end(read, lone_returns=lone_returns)
        if cut:
            block = b"".join((*parts, read[:cut]))
            yield offset, block, False
            offset += len(block)
            parts = [read[cut:]]
            continue
        parts.append(read)
        if len(parts) * _BLOCK > _LONGEST:
            raise UnfinishedRecordError(f"has a line of over {_LONGEST >> 20} MiB")
    yield offset, b"".join(parts), True


def _last_line_end(read: bytes, *, lone_returns: bool) -> int:
    """Return the place behind the last line end in *read*, 0 for none; carriage returns count where there is no newline."""
    newline = read.rfind(b"\n") + 1
    if newline or not lone_returns:
        return newline
    return read.rfind(b"\r", 0, -1) + 1  # the very last byte may be the first half of a line end


def _breaks(block: bytes, state: int, dialect: Dialect, *, lone_returns: bool = True) -> tuple[Positions, int]:
    """Return the positions of the bytes that end a record, and the state at the block's end."""
    data = np.frombuffer(block, dtype=np.uint8)
    if dialect.escape and dialect.escape in block:
        if block.endswith(dialect.escape):
            return _scanned(block, state, dialect)
        data = _without_escapes(data, dialect.escape[0])
    breaks = np.flatnonzero(data == _NEWLINE)
    if lone_returns and _RETURN in block:
        returns = np.flatnonzero(data == _RETURN)
        following = np.append(np.frombuffer(block, dtype=np.uint8), 0)[returns + 1]
        breaks = np.sort(np.concatenate((breaks, returns[following != _NEWLINE])))
    inside = state == QUOTED
    if dialect.quote and (inside or dialect.quote in block):
        quotes = np.flatnonzero(data == dialect.quote[0])
        if not _is_regular(data, quotes, state, dialect):
            return _scanned(block, state, dialect)
        before = np.searchsorted(quotes, breaks) + inside
        breaks = breaks[before % 2 == 0]
        inside = bool((len(quotes) + inside) % 2)
    if not block:
        return breaks, state
    at_start = len(breaks) > 0 and breaks[-1] == len(block) - 1
    return breaks, QUOTED if inside else START if at_start else FIELD


def _without_escapes(data: Bytes, escape: int) -> Bytes:
    """Return *data* with every escape character and the byte behind it replaced by a byte that means nothing."""
    places = np.flatnonzero(data == escape)
    numbers = np.arange(len(places))
    first_of_run = np.append(True, np.diff(places) != 1)
    in_run = numbers - np.maximum.accumulate(np.where(first_of_run, numbers, 0))
    active = places[in_run % 2 == 0]  # every second one of a run is escaped itself
    plain: Bytes = data.copy()
    plain[active] = plain[active + 1] = _NEUTRAL
    return plain


def _is_regular(data: Bytes, quotes: Positions, state: int, dialect: Dialect) -> bool:
    """True when every quote opens a field at its start, closes one at its end, or is one of a doubled pair."""
    first = _NEUTRAL if state == FIELD else _NEWLINE
    opening, closing = (quotes[1::2], quotes[0::2]) if state == QUOTED else (quotes[0::2], quotes[1::2])
    borders = np.array([dialect.delimiter[0], _NEWLINE, _RETURN], dtype=np.uint8)
    before = np.where(opening > 0, data[opening - 1], first)
    after = np.where(closing + 1 < len(data), data[np.minimum(closing + 1, len(data) - 1)], _NEWLINE)
    quote = dialect.quote[0]
    if not dialect.double_quote:  # behind its closing quote a field goes on as one without quotes
        return bool(np.isin(before, borders).all())
    return bool((np.isin(before, borders) | (before == quote)).all() and (np.isin(after, borders) | (after == quote)).all())


def _scanned(block: bytes, state: int, dialect: Dialect) -> tuple[Positions, int]:
    ends, _, after = scan(block, state, dialect)
    return np.array(ends, dtype=np.int64) - 1, after


def _filled(data: bytes, ends: Positions, dialect: Dialect) -> npt.NDArray[np.bool_]:
    """Return which records are more than blanks."""
    view = np.frombuffer(data, dtype=np.uint8)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    first = view[starts]
    filled = (first != _NEWLINE) & (first != _RETURN)
    ignored = dialect.blanks + b"\r\n"
    for index in np.flatnonzero(np.isin(first, np.frombuffer(dialect.blanks, dtype=np.uint8))):
        filled[index] = bool(data[starts[index] : ends[index]].strip(ignored))
    return np.asarray(filled, dtype=np.bool_)
