"""Delimited text (CSV, TSV): cut at record ends; its columns and their types are those of the whole file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from prefect_parallel_run.child.csv_dialect import dialect_of, fields_of_first, pandas_options
from prefect_parallel_run.child.delimited import likely_delimiter
from prefect_parallel_run.child.text import BOM
from prefect_parallel_run.datasets.delimited_schema import DelimitedTypes
from prefect_parallel_run.datasets.formats.base import CutFile, Piece
from prefect_parallel_run.datasets.formats.text import Encoded, Storage
from prefect_parallel_run.datasets.record_ends import Records
from prefect_parallel_run.datasets.text_splitting import all_spans, peek_head, split_head
from prefect_parallel_run.storage.folders import Listed

_LONGEST_NAME = 60  #: characters of a column's name that are shown
_EXCEL = re.compile(rb'"?[sS][eE][pP]=([ -~\t])"?')
_USUAL: dict[str, Any] = {"escape": None, "double_quote": True, "decimal": ".", "na_values": None, "keep_default_na": True}


class UnknownColumnError(ValueError):
    """A file lacks a column whose type is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delimited:
    """Delimited text of one dialect."""

    delimiter: str
    quote: str
    escape: str | None
    double_quote: bool
    decimal: str
    na_values: list[str] | None = None
    keep_default_na: bool = True
    column_types: Mapping[str, str]  #: by the column's name, or its number where there is no header
    header: bool
    storage: Storage

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut; it is read once, from beginning to end."""
        about = {**self._dialect(), **self.storage.about(file.path)}
        with self.storage.records(file.path, dialect_of(about)) as parts:
            head, records = split_head(parts) if self.header else peek_head(parts)
            if head is None:
                return CutFile(about, iter(()))
            if self.header:
                columns = about["columns"] = self._columns(head, about)
                given = self._given(columns, self._cells(head, about)) if self.column_types else {}
                first, records = peek_head(records)
                # With a delimiter behind every last field pandas reads a column more, and leaves it out when it is empty.
                if first is not None and fields_of_first(first, dialect_of(about)) == len(columns) + 1:
                    about["fields"] = len(columns) + 1
            else:
                columns = [str(number) for number in range(fields_of_first(head, dialect_of(about)))]
                given = self._given(columns, columns)
            types = DelimitedTypes(about, columns, given)
            encoded = Encoded(about.get("encoding", "utf-8"))
            found = all_spans(_looked_at(encoded.look(records), types), size)
        about["types"] = types.types()
        self._check_names(columns)
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in found)
        doubts = {**encoded.doubts, **(_doubt_of_excel(head) or self._doubt_of_delimiter(about.get("columns", ())))}
        return CutFile(about, pieces, columns=types.columns(), names=columns, doubts=doubts)

    def _doubt_of_delimiter(self, columns: Sequence[str]) -> dict[str, str]:
        likely = likely_delimiter(columns, self.delimiter)
        if not likely:
            return {}
        words = f"has one column, {columns[0][:_LONGEST_NAME]!r} (delimiter {self.delimiter!r}); is the delimiter {likely!r}?"
        return {"delimiter": words}

    def _dialect(self) -> dict[str, Any]:
        unusual = {name: getattr(self, name) for name, usual in _USUAL.items() if getattr(self, name) != usual}
        return {"delimiter": self.delimiter, "quote": self.quote, **unusual}

    @staticmethod
    def _columns(head: bytes, about: dict[str, Any]) -> list[str]:
        """Return the names in a header, as pandas gives them (a name that comes twice is numbered)."""
        marks = [about["delimiter"], about["quote"], about.get("escape"), about.get("decimal")]
        row = next(digit for digit in "01234" if digit not in marks)  # without a row pandas would make a Series of every name
        frame = pd.read_csv(
            _without_mark(head.rstrip(b"\r\n") + f"\n{row}\n".encode()), index_col=False, **pandas_options(about)
        )
        return [str(name) for name in frame.columns]

    @staticmethod
    def _cells(head: bytes, about: dict[str, Any]) -> list[str]:
        """Return what is written in a header."""
        options = {**pandas_options(about), "na_values": None, "keep_default_na": False}
        frame = pd.read_csv(_without_mark(head), header=None, dtype=str, index_col=False, **options)
        return [str(cell) for cell in frame.iloc[0]]

    def _given(self, columns: Sequence[str], cells: Sequence[str]) -> dict[int, str]:
        """Return the types that are given, by place; a name that comes twice gives its type to both, as in pandas."""
        kinds = [self.column_types.get(name, self.column_types.get(cell)) for name, cell in zip(columns, cells, strict=True)]
        return {place: kind for place, kind in enumerate(kinds) if kind is not None}

    def _check_names(self, columns: Sequence[str]) -> None:
        for name in self.column_types:
            if name not in columns:
                raise UnknownColumnError(f"has no column {name!r}, which column_types names; there are {list(columns)}")


def _doubt_of_excel(head: bytes) -> dict[str, str]:
    """Return the doubt about a first line that names the delimiter; Excel reads such a line and shows no row for it.

    >>> _doubt_of_excel(b"sep=;")["sep"][:59]
    "begins with the line 'sep=;', which names the delimiter for"
    """
    match = _EXCEL.fullmatch(head.rstrip(b"\r\n"))
    if match is None:
        return {}
    delimiter, line = match[1].decode(), head.rstrip(b"\r\n").decode()
    reason = "names the delimiter for Excel; here, as in pandas, it is the file's first record"
    return {"sep": f"begins with the line {line!r}, which {reason}: remove that line and pass delimiter={delimiter!r}"}


def _without_mark(head: bytes) -> io.BytesIO:
    """Return a header to read; a byte order mark that pandas would leave out is text: the file's own is left out already."""
    return io.BytesIO(b"\n" + head if head.startswith(BOM) else head)


def _looked_at(parts: Iterator[Records], types: DelimitedTypes) -> Iterator[Records]:
    """Pass *parts* on; while one is looked at for its types, the next one is cut into records."""
    with ThreadPoolExecutor(1) as pool:
        look = None
        for part in parts:
            if look is not None:
                look.result()
            look = pool.submit(types.add, part.data, int(part.filled.sum()))
            yield part
        if look is not None:
            look.result()
