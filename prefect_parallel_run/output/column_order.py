"""Reorders the fields of delimited rows to match another header; each keeps its text, including quotes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_NO_QUOTES = 3  #: csv.QUOTE_NONE


class Dialect(NamedTuple):
    """The dialect of delimited rows."""

    separator: str
    quote: str = '"'  #: empty if fields are never quoted
    escape: str = ""
    encoding: str = "utf-8"

    @classmethod
    def of(cls, row_format: str, options: Mapping[str, Any]) -> Dialect:
        """Return the dialect of *row_format* (``text`` or ``csv``) with *options* of pandas.DataFrame.to_csv."""
        return cls(
            options.get("sep", " " if row_format == "text" else ","),
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
