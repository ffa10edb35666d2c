"""Finds the ends of records in a text file exactly as pandas' C parser does, at the speed of numpy.

Quotes are tracked by parity: outside quotes their number so far is even. That is correct if every quote opens or closes a
field or is doubled; any other block (``5" pipe``) is scanned state by state instead (child/csv_dialect.py). Escaped bytes are
replaced beforehand.
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
_NEUTRAL = 0xFF  #: not a delimiter, quote or line end
_LONGEST = 1 << 30  #: bytes of a record; a longer one means that a quote is missing

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Records(NamedTuple):
    """Consecutive complete records of a text."""

    start: int  #: offset of the first record in the text
    ends: Positions  #: offsets in the text, one past each record's terminator
    filled: npt.NDArray[np.bool_]  #: False for blank lines, which are not records
    data: bytes  #: the text from the start of the first record to the end of the last

    def after(self, number: int) -> Records:
        """Return the records after the first *number* ones."""
        start = int(self.ends[number - 1])
        return Records(start, self.ends[number:], self.filled[number:], self.data[start - self.start :])


class Source(Protocol):
    """A readable stream of text: an open file, or a TextStream."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, or b"" at the end."""


class UnfinishedRecordError(ValueError):
    """The text ends inside quotes or after an escape character, or a record is too long."""


def record_ends(source: Source, dialect: Dialect, *, lone_returns: bool = True, has_mark: bool = True) -> Iterator[Records]:
    """Yield the records of *source* in blocks.

    Args:
        source: A text in UTF-8, or in another encoding that is compatible with ASCII.
        dialect: Quotes and escapes; JSON lines have none.
        lone_returns: A single carriage return ends a record too.
        has_mark: Skip a UTF-8 byte order mark at the beginning.

    Raises:
        UnfinishedRecordError: The last record is incomplete, or a record is too long.
    """
    state = START
    pending: list[bytes] = []  # blocks of the record that has not ended yet
    begin = 0
    for offset, block, is_last in _blocks(source, has_mark=has_mark, lone_returns=lone_returns):
        begin = begin if pending else offset
        breaks, state = _breaks(block, state, dialect, lone_returns=lone_returns)
        ends = breaks + 1
        whole = int(ends[-1]) if len(ends) else 0
        if is_last:
            _check_end(state)
            if whole < len(block) or (pending and not whole):
                ends, whole = np.append(ends, len(block)), len(block)
        if not len(ends):
            pending.append(block)
            if offset + len(block) - begin > _LONGEST:
                raise UnfinishedRecordError(f"has a record of over {_LONGEST >> 20} MiB; is a closing quote missing?")
            continue
        data = block if not pending and whole == len(block) else b"".join((*pending, block[:whole]))
        ends += offset - begin
        yield Records(begin, ends + begin, _filled(data, ends, dialect), data)
        pending = [block[whole:]] if whole < len(block) else []
        begin = offset + whole


def _check_end(state: int) -> None:
    if state == QUOTED:
        raise UnfinishedRecordError("ends inside a quoted field; a closing quote is missing")
    if state == ESCAPED:
        raise UnfinishedRecordError("ends with an escape character")


def _blocks(source: Source, *, has_mark: bool, lone_returns: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Yield blocks that end at a line end, as offset, bytes and whether it is the last, which may be empty."""
    head = source.read(len(BOM))
    offset = 0
    if has_mark and head == BOM:
        offset, head = len(BOM), b""
    parts = [head]
    while data := source.read(_BLOCK):
        cut = _last_line_end(data, lone_returns=lone_returns)
        if cut:
            block = b"".join((*parts, data[:cut]))
            yield offset, block, False
            offset += len(block)
            parts = [data[cut:]]
            continue
        parts.append(data)
        if len(parts) * _BLOCK > _LONGEST:
            raise UnfinishedRecordError(f"has a line of over {_LONGEST >> 20} MiB")
    yield offset, b"".join(parts), True


def _last_line_end(data: bytes, *, lone_returns: bool) -> int:
    """Return the position after the last line end, 0 for none; carriage returns count only without any newline."""
    newline = data.rfind(b"\n") + 1
    if newline or not lone_returns:
        return newline
    return data.rfind(b"\r", 0, -1) + 1  # the last byte may be the first half of a line end


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
    """Return *data* with every escape character and the byte after it replaced by a neutral byte."""
    positions = np.flatnonzero(data == escape)
    numbers = np.arange(len(positions))
    first_of_run = np.append(True, np.diff(positions) != 1)
    in_run = numbers - np.maximum.accumulate(np.where(first_of_run, numbers, 0))
    active = positions[in_run % 2 == 0]  # every second escape character of a run is escaped itself
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
    if not dialect.double_quote:  # after its closing quote a field continues as an unquoted one
        return bool(np.isin(before, borders).all())
    return bool((np.isin(before, borders) | (before == quote)).all() and (np.isin(after, borders) | (after == quote)).all())


def _scanned(block: bytes, state: int, dialect: Dialect) -> tuple[Positions, int]:
    ends, _, after = scan(block, state, dialect)
    return np.array(ends, dtype=np.int64) - 1, after


def _filled(data: bytes, ends: Positions, dialect: Dialect) -> npt.NDArray[np.bool_]:
    """Return which records are not blank."""
    view = np.frombuffer(data, dtype=np.uint8)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    first = view[starts]
    filled = (first != _NEWLINE) & (first != _RETURN)
    ignored = dialect.blanks + b"\r\n"
    for index in np.flatnonzero(np.isin(first, np.frombuffer(dialect.blanks, dtype=np.uint8))):
        filled[index] = bool(data[starts[index] : ends[index]].strip(ignored))
    return np.asarray(filled, dtype=np.bool_)
