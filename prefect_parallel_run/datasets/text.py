"""Text files: encoding and compression, the ends of records, and spans of records of about the size of a mini-batch.

Records end exactly where pandas' C parser ends them; numpy finds these bytes. Quotes are tracked by parity: outside quotes,
their number so far is even. That is correct if every quote opens or closes a field or is doubled; any other block
(``5" pipe``) is scanned state by state instead (child/delimited.py). Escaped bytes are replaced beforehand.
"""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from prefect_parallel_run.child.delimited import ESCAPED, FIELD, QUOTED, START, Dialect, scan
from prefect_parallel_run.child.storage import open_file
from prefect_parallel_run.child.text import BOM, Codec, TextStream, check_compression, is_transparent, not_encoded

_BLOCK = 1 << 24  #: bytes read at a time
_NEWLINE, _RETURN = 0x0A, 0x0D
_NEUTRAL = 0xFF  #: not a delimiter, quote or line end
_LONGEST = 1 << 30  #: bytes of a record; a longer one means that a quote is missing

_UNFINISHED = {QUOTED: "ends inside a quoted field; a closing quote is missing", ESCAPED: "ends with an escape character"}

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Compression = Literal["infer", Codec] | None
_ENDINGS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}


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
            if state in _UNFINISHED:
                raise UnfinishedRecordError(_UNFINISHED[state])
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
    view = np.frombuffer(data, dtype=np.uint8)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    first = view[starts]
    filled = (first != _NEWLINE) & (first != _RETURN)
    ignored = dialect.blanks + b"\r\n"
    for index in np.flatnonzero(np.isin(first, np.frombuffer(dialect.blanks, dtype=np.uint8))):
        filled[index] = bool(data[starts[index] : ends[index]].strip(ignored))
    return np.asarray(filled, dtype=np.bool_)


class Span(NamedTuple):
    """Consecutive records."""

    start: int  #: offset in the text, bytes
    stop: int
    rows: int  #: number of records, without blank lines
    first: int  #: number of the first record in the file, from 1


def split_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank (None without one), and the records after it."""
    for part in parts:
        filled = part.filled.nonzero()[0]
        if len(filled):
            number = int(filled[0])
            begin = part.start if number == 0 else int(part.ends[number - 1])
            head = part.data[begin - part.start : int(part.ends[number]) - part.start]
            rest = part.after(number + 1)
            return head, chain([rest] if len(rest.ends) else [], parts)
    return None, iter(())


def peek_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank (None without one), and all records."""
    blank: list[Records] = []
    for part in parts:
        head, _ = split_head(iter([part]))
        if head is not None:
            return head, chain(blank, [part], parts)
        blank.append(part)
    return None, iter(blank)


def spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Yield spans of about *size* bytes, each with at least one record."""
    rows, first = 0, 1
    start = stop = None
    for part in parts:
        start = part.start if start is None else start
        done = 0  # records of this part that are in a span
        while done < len(part.ends):
            index = min(max(int(part.ends.searchsorted(start + size)), done), len(part.ends) - 1)
            rows += int(part.filled[done : index + 1].sum())
            stop, done = int(part.ends[index]), index + 1
            if stop - start >= size:
                if rows:
                    yield Span(start, stop, rows, first)
                start, first, rows = stop, first + rows, 0
    if rows and start is not None and stop is not None:
        yield Span(start, stop, rows, first)


def all_spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Return the spans of all *parts* as an iterator, after consuming *parts*; a span takes 32 bytes of memory."""
    fields = array("q")
    for span in spans(parts, size):
        fields.extend(span)
    return (Span(*fields[index : index + 4]) for index in range(0, len(fields), 4))


def checked_encoding(name: str) -> str:
    """Return *name*; raises ValueError when it is not a text encoding."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError):
        expected = "an encoding that Python knows, such as 'utf-8' or 'latin-1'"
        raise ValueError(f"encoding: expected {expected}, got {name!r}") from None
    return name


def check_encoding(parts: Iterator[Records], encoding: str, warnings: dict[str, str]) -> Iterator[Records]:
    """Yield *parts*; add to *warnings* a message about the first records that are not valid in *encoding*."""
    for part in parts:
        if not warnings and not part.data.isascii():
            try:
                part.data.decode(encoding)
            except UnicodeDecodeError as error:
                warnings["encoding"] = f"{not_encoded(encoding, error)} The mini-batches with such records will fail"
        yield part


@dataclass(frozen=True, slots=True)
class Storage:
    """Encoding and compression of text files."""

    encoding: str = "utf-8"
    compression: Compression = "infer"
    is_always_utf8: bool = False  #: slices must be UTF-8 (JSON lines): text in another encoding is read as a stream

    def fields(self, path: str) -> dict[str, Any]:
        """Return the fields of a mini-batch's work about encoding and compression; none for plain UTF-8."""
        compression = self._compression(path)
        if compression is not None or not self._can_slice():
            return {"stream": {"compression": compression, "encoding": self.encoding}}
        return {} if self._is_utf8() else {"encoding": self.encoding}

    @contextmanager
    def records(self, path: str, dialect: Dialect, *, lone_returns: bool = True) -> Iterator[Iterator[Records]]:
        """Open the file at *path* and return its records."""
        stream = self.fields(path).get("stream")
        if stream is None:
            with open_file(path) as file:
                check_compression(file, None)
                yield record_ends(file, dialect, lone_returns=lone_returns, has_mark=self._is_utf8())
        else:
            with closing(TextStream(path, stream["compression"], stream["encoding"])) as text:
                yield record_ends(text, dialect, lone_returns=lone_returns, has_mark=False)

    def _compression(self, path: str) -> Codec | None:
        if self.compression != "infer":
            return self.compression
        return next((kind for ending, kind in _ENDINGS.items() if path.lower().endswith(ending)), None)

    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    def _can_slice(self) -> bool:
        return self._is_utf8() or (is_transparent(self.encoding) and not self.is_always_utf8)
