"""Delimited text (CSV, TSV): divided at record ends; columns and their types are those of the whole file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from prefect_parallel_run.child.delimited import dialect_of, fields_of_first, likely_delimiter, pandas_options
from prefect_parallel_run.child.text import BOM
from prefect_parallel_run.datasets.formats import FilePlan, Piece, TablePlanner
from prefect_parallel_run.datasets.formats.delimited_types import DelimitedTypes
from prefect_parallel_run.datasets.text import Records, Storage, all_spans, check_encoding, peek_head, split_head
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile

_LONGEST_NAME = 60  #: characters of a column's name in a message
_EXCEL = re.compile(rb'"?[sS][eE][pP]=([ -~\t])"?')
_OPTIONAL = {
    "escape",
    "double_quote",
    "decimal",
    "na_values",
    "keep_default_na",
}  #: absent from a work by default


class Delimited(TablePlanner):
    """Divides delimited text of one dialect."""

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*, which is read completely, once."""
        storage = Storage(self._dataset.encoding, self._dataset.compression)
        work = {**self._dialect(), **storage.fields(file.path)}
        with storage.records(file.path, dialect_of(work)) as parts:
            head, records = split_head(parts) if self._dataset.header else peek_head(parts)
            if head is None:
                return FilePlan(work, iter(()))
            columns, cells, records = self._columns(head, records, work)
            kept = set(self._dataset.selection.kept(columns))
            skipped = [index for index, name in enumerate(columns) if name not in kept]
            types = DelimitedTypes(work, columns, self._declared(columns, cells), skipped)
            warnings: dict[str, str] = {}
            checked = check_encoding(records, work.get("encoding", "utf-8"), warnings)
            spans = all_spans(_infer_types(checked, types), size)
        work["types"] = types.types()
        if skipped and types.is_regular:
            work["is_regular"] = True
        self._check_names(file.path, columns)
        pieces = (Piece(span.rows, span.stop - span.start, span._asdict()) for span in spans)
        warnings |= _warn_of_excel(head) or self._warn_of_delimiter(work.get("columns", ()))
        return FilePlan(work, pieces, columns=types.columns(), names=columns, warnings=warnings)

    def _columns(
        self, head: bytes, records: Iterator[Records], work: dict[str, Any]
    ) -> tuple[list[str], list[str], Iterator[Records]]:
        """Return the columns, as pandas names and as the file spells them, and the records; add the columns to *work*."""
        dialect = dialect_of(work)
        if not self._dataset.header:
            columns = [str(number) for number in range(fields_of_first(head, dialect))]
            return columns, columns, records
        columns = work["columns"] = _names(head, work)
        first, records = peek_head(records)
        # With a delimiter after every last field pandas reads an extra column, and drops it when it is empty.
        if first is not None and fields_of_first(first, dialect) == len(columns) + 1:
            work["fields"] = len(columns) + 1
        return columns, _cells(head, work) if self._dataset.column_types else columns, records

    def _warn_of_delimiter(self, columns: Sequence[str]) -> dict[str, str]:
        delimiter = self._dataset.delimiter
        likely = likely_delimiter(columns, delimiter)
        if not likely:
            return {}
        column = columns[0][:_LONGEST_NAME]
        return {"delimiter": f"has one column, {column!r} (delimiter {delimiter!r}); is the delimiter {likely!r}?"}

    def _dialect(self) -> dict[str, Any]:
        changed = self._dataset.model_dump(include=_OPTIONAL, exclude_defaults=True)
        return {"delimiter": self._dataset.delimiter, "quote": self._dataset.quote, **changed}

    def _declared(self, columns: Sequence[str], cells: Sequence[str]) -> dict[int, str]:
        """Return the types in column_types, by column index; a repeated name's applies to all its columns, as in pandas."""
        given = self._dataset.column_types or {}
        kinds = [given.get(name, given.get(cell)) for name, cell in zip(columns, cells, strict=True)]
        return {index: kind for index, kind in enumerate(kinds) if kind is not None}

    def _check_names(self, path: str, columns: Sequence[str]) -> None:
        for name in self._dataset.column_types or ():
            if name not in columns:
                reason = f"lacks the column {name!r}, which column_types names; its columns are {list(columns)}"
                raise InputError(path, reason)


def _names(head: bytes, work: dict[str, Any]) -> list[str]:
    """Return the names in a header as pandas reads them (it numbers repeated names)."""
    marks = [work["delimiter"], work["quote"], work.get("escape"), work.get("decimal")]
    row = next(digit for digit in "01234" if digit not in marks)  # without one pandas would return a Series for every name
    table = head.rstrip(b"\r\n") + f"\n{row}\n".encode()
    frame = pd.read_csv(_without_mark(table), index_col=False, **pandas_options(work))
    return [str(name) for name in frame.columns]


def _cells(head: bytes, work: dict[str, Any]) -> list[str]:
    """Return the fields of a header as they are written."""
    options = {**pandas_options(work), "na_values": None, "keep_default_na": False}
    frame = pd.read_csv(_without_mark(head), header=None, dtype=str, index_col=False, **options)
    return [str(cell) for cell in frame.iloc[0]]


def _warn_of_excel(head: bytes) -> dict[str, str]:
    """Return a warning work a first line that names the delimiter; Excel reads such a line and shows no row for it.

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
