"""Delimited text (CSV, TSV): divided at record ends; columns and their types are those of the whole file."""

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
from prefect_parallel_run.datasets.text import EncodingCheck, Records, Storage, all_spans, peek_head, split_head
from prefect_parallel_run.storage.folders import ListedFile

_LONGEST_NAME = 60  #: characters of a column's name in a message
_EXCEL = re.compile(rb'"?[sS][eE][pP]=([ -~\t])"?')
_DEFAULTS: dict[str, Any] = {"escape": None, "double_quote": True, "decimal": ".", "na_values": None, "keep_default_na": True}


class UnknownColumnError(ValueError):
    """A file lacks a column that column_types names."""


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
    column_types: Mapping[str, str]  #: by column name, or number without a header
    header: bool
    storage: Storage

    def cut(self, file: ListedFile, size: int) -> CutFile:
        """Divide *file*, which is read completely, once."""
        about = {**self._dialect(), **self.storage.about(file.path)}
        with self.storage.records(file.path, dialect_of(about)) as parts:
            head, records = split_head(parts) if self.header else peek_head(parts)
            if head is None:
                return CutFile(about, iter(()))
            if self.header:
                columns = about["columns"] = self._columns(head, about)
                declared = self._declared(columns, self._cells(head, about)) if self.column_types else {}
                first, records = peek_head(records)
                # With a delimiter after every last field pandas reads an extra column, and drops it when it is empty.
                if first is not None and fields_of_first(first, dialect_of(about)) == len(columns) + 1:
                    about["fields"] = len(columns) + 1
            else:
                columns = [str(number) for number in range(fields_of_first(head, dialect_of(about)))]
                declared = self._declared(columns, columns)
            types = DelimitedTypes(about, columns, declared)
            encoding_check = EncodingCheck(about.get("encoding", "utf-8"))
            spans = all_spans(_infer_types(encoding_check.passing(records), types), size)
        about["types"] = types.types()
        self._check_names(columns)
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in spans)
        messages = {**encoding_check.warnings, **(_warn_of_excel(head) or self._warn_of_delimiter(about.get("columns", ())))}
        return CutFile(about, pieces, columns=types.columns(), names=columns, warnings=messages)

    def _warn_of_delimiter(self, columns: Sequence[str]) -> dict[str, str]:
        likely = likely_delimiter(columns, self.delimiter)
        if not likely:
            return {}
        column = columns[0][:_LONGEST_NAME]
        return {"delimiter": f"has one column, {column!r} (delimiter {self.delimiter!r}); is the delimiter {likely!r}?"}

    def _dialect(self) -> dict[str, Any]:
        changed = {name: getattr(self, name) for name, default in _DEFAULTS.items() if getattr(self, name) != default}
        return {"delimiter": self.delimiter, "quote": self.quote, **changed}

    @staticmethod
    def _columns(head: bytes, about: dict[str, Any]) -> list[str]:
        """Return the names in a header as pandas reads them (it numbers repeated names)."""
        marks = [about["delimiter"], about["quote"], about.get("escape"), about.get("decimal")]
        row = next(
            digit for digit in "01234" if digit not in marks
        )  # without a row pandas would return a Series for every name
        frame = pd.read_csv(
            _without_mark(head.rstrip(b"\r\n") + f"\n{row}\n".encode()), index_col=False, **pandas_options(about)
        )
        return [str(name) for name in frame.columns]

    @staticmethod
    def _cells(head: bytes, about: dict[str, Any]) -> list[str]:
        """Return the fields of a header as they are written."""
        options = {**pandas_options(about), "na_values": None, "keep_default_na": False}
        frame = pd.read_csv(_without_mark(head), header=None, dtype=str, index_col=False, **options)
        return [str(cell) for cell in frame.iloc[0]]

    def _declared(self, columns: Sequence[str], cells: Sequence[str]) -> dict[int, str]:
        """Return the types in column_types, by column index; a repeated name's applies to all its columns, as in pandas."""
        kinds = [self.column_types.get(name, self.column_types.get(cell)) for name, cell in zip(columns, cells, strict=True)]
        return {index: kind for index, kind in enumerate(kinds) if kind is not None}

    def _check_names(self, columns: Sequence[str]) -> None:
        for name in self.column_types:
            if name not in columns:
                raise UnknownColumnError(
                    f"lacks the column {name!r}, which column_types names; its columns are {list(columns)}"
                )


def _warn_of_excel(head: bytes) -> dict[str, str]:
    """Return a warning about a first line that names the delimiter; Excel reads such a line and shows no row for it.

    >>> _warn_of_excel(b"sep=;")["sep"][:59]
    "begins with the line 'sep=;', which names the delimiter for"
    """
    match = _EXCEL.fullmatch(head.rstrip(b"\r\n"))
    if match is None:
        return {}
    delimiter, line = match[1].decode(), head.rstrip(b"\r\n").decode()
    reason = "names the delimiter for Excel; here, as in pandas, it is the file's first record"
    return {"sep": f"begins with the line {line!r}, which {reason}: remove that line and pass delimiter={delimiter!r}"}


def _without_mark(head: bytes) -> io.BytesIO:
    """Return a header as a file; protects a leading byte order mark from pandas: the file's own has been skipped already."""
    return io.BytesIO(b"\n" + head if head.startswith(BOM) else head)


def _infer_types(parts: Iterator[Records], types: DelimitedTypes) -> Iterator[Records]:
    """Yield *parts* and add them to *types*, in a thread that works while the next part is divided into records."""
    with ThreadPoolExecutor(1) as pool:
        inference = None
        for part in parts:
            if inference is not None:
                inference.result()
            inference = pool.submit(types.add, part.data, int(part.filled.sum()))
            yield part
        if inference is not None:
            inference.result()
