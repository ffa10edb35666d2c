"""Text formats: the header of the first mini-batch that has one, then the rows, byte by byte or with reordered fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.formats.base import Layout, OutputFormat, Sink
from prefect_parallel_run.output.parts import Parts, StoredRows

_NO_QUOTES = 3  #: csv.QUOTE_NONE
_MAX_ADJACENT = 1_024  #: ranges in one read


class Text(OutputFormat):
    """One header, if there is any, and then all rows.

    Args:
        separator: Separates the columns, unless an option says otherwise.
    """

    def __init__(self, separator: str) -> None:
        self._separator = separator

    def layout(self, places: Iterable[StoredRows], parts: Parts) -> Layout:  # noqa: D102  inherited
        first = next((place for place in places if place.header), None)
        return Layout(b"", 0) if first is None else Layout(parts.head(first), first.mini_batch)

    def write(
        self, places: Iterable[StoredRows], parts: Parts, sink: Sink, options: Mapping[str, Any], layout: Layout | None = None
    ) -> int:
        """Write rows with another column order than the first header in its order; for the rest see OutputFormat."""
        dialect = Dialect.of(self._separator, options)
        rows = header_of = 0
        header: bytes | None = None
        if layout is not None and layout.header:
            header, header_of = layout
            sink.write(header)
        for group in _adjacent(places):
            rows += sum(place.rows for place in group)
            first = group[0]
            own_header = parts.head(first) if first.header else header
            if header is None and own_header is not None:
                sink.write(own_header)
                header, header_of = own_header, first.mini_batch
            if own_header == header:
                parts.copy(group, sink.write, first.header)
            else:
                sink.write(_reordered(first, header or b"", header_of, parts, dialect))
        return rows

    def split(self, data: bytes, count: int, options: Mapping[str, Any]) -> list[str]:
        r"""Return the *count* rows of a published file, header included, without the newline at the end of each.

        If a row has a newline that is neither quoted nor escaped, return the lines of the file.

        >>> Text(",").split(b'1,"x\ny"\n2,z\n', 2, {})
        ['1,"x\ny"', '2,z']
        """
        dialect = Dialect.of(self._separator, options)
        text = _decoded(data, dialect)
        lines = text.split("\n")[:-1]
        if len(lines) == count:  # also if a row has half a pair of quotes: every row ends in a newline
            return lines
        field = f"(?:{_field(dialect)})"
        rows = re.findall(f"({field}(?:{re.escape(dialect.separator)}{field})*)\n", text)
        return rows if len(rows) == count and sum(len(row) + 1 for row in rows) == len(text) else lines


def _reordered(place: StoredRows, expected: bytes, header_of: int, parts: Parts, dialect: Dialect) -> bytes:
    """Return the rows of a range in the column order of *expected*; raises RowsDifferError if the columns differ."""
    data = parts.read(place)
    header, rows = data[: place.header], data[place.header :]
    ordered_rows = reorder_columns(rows, header, expected, dialect)
    if ordered_rows is None:
        reason = f"mini-batch {place.mini_batch} {_difference(expected, header)}"
        raise RowsDifferError("", reason, place.mini_batch, other=header_of)
    return ordered_rows


def _adjacent(places: Iterable[StoredRows]) -> Iterator[list[StoredRows]]:
    """Yield groups of ranges that are adjacent in one part, so that one read covers many small ones.

    A range with a header forms its own group: its header must be compared and skipped.
    """
    group: list[StoredRows] = []
    for place in places:
        if group and not (
            place.part == group[-1].part
            and place.offset == group[-1].offset + group[-1].length
            and not place.header
            and not group[0].header
            and len(group) < _MAX_ADJACENT
        ):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _difference(header: bytes, own_header: bytes) -> str:
    """Return how the columns of a mini-batch differ from the header."""
    before, now = header.decode("utf-8", "replace").rstrip("\n"), own_header.decode("utf-8", "replace").rstrip("\n")
    for number, (expected, actual) in enumerate(zip(before.split(","), now.split(","), strict=False), 1):
        if expected != actual:
            return f"has column {actual!r} where earlier mini-batches have {expected!r} (column {number})"
    return f"has the columns {now!r} where earlier mini-batches have {before!r}"


class Dialect(NamedTuple):
    """The dialect of delimited rows."""

    separator: str
    quote: str = '"'  #: empty if fields are never quoted
    escape: str = ""
    encoding: str = "utf-8"

    @classmethod
    def of(cls, separator: str, options: Mapping[str, Any]) -> Dialect:
        """Return the dialect of pandas.DataFrame.to_csv with *options*, by default with *separator*."""
        return cls(
            options.get("sep", separator),
            "" if options.get("quoting") == _NO_QUOTES else options.get("quotechar", '"'),
            options.get("escapechar", ""),
            options.get("encoding") or "utf-8",
        )


def reorder_columns(rows: bytes, header: bytes, expected: bytes, dialect: Dialect) -> bytes | None:
    r"""Return *rows*, whose columns *header* names, in the order of the header *expected*.

    None if the headers do not have the same unique names, or if the rows cannot be parsed.

    >>> reorder_columns(b'1,"x,y"\n2,z\n', b"a,b\n", b"b,a\n", Dialect(","))
    b'"x,y",1\nz,2\n'
    """
    names, order = (_fields(line, dialect) for line in (header, expected))
    if len(set(names)) < len(names) or sorted(names) != sorted(order):
        return None
    field = _field(dialect)
    row = re.compile(re.escape(dialect.separator).join(f"({field})" for _ in names) + "\n")
    positions = [names.index(name) + 1 for name in order]
    text, end, lines = _decoded(rows, dialect), 0, []
    for match in row.finditer(text):
        if match.start() != end:
            return None
        end = match.end()
        lines.append(dialect.separator.join(match.group(*positions)))
    if end != len(text):
        return None
    return "".join(f"{line}\n" for line in lines).encode(dialect.encoding, "surrogateescape")


def _fields(line: bytes, dialect: Dialect) -> list[str]:
    """Return the fields of one row."""
    separator, field = re.escape(dialect.separator), _field(dialect)
    return [match[1] for match in re.finditer(f"({field})(?:{separator}|\n)", _decoded(line, dialect))]


def _field(dialect: Dialect) -> str:
    """Return a regular expression for one field, quoted or not."""
    separator, quote, escape = map(re.escape, dialect[:3])
    escaped = f"{escape}[\\s\\S]|" if escape else ""
    plain = f"(?:{escaped}[^{separator}{escape}\n])*"
    if not quote:
        return plain
    return f"{quote}(?:{escaped}{quote}{quote}|[^{quote}{escape}])*{quote}|(?!{quote}){plain}"


def _decoded(data: bytes, dialect: Dialect) -> str:
    return data.decode(dialect.encoding, "surrogateescape")
