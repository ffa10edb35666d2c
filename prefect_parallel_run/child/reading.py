"""Reads the items of a mini-batch from its ``work`` in the plan: a list of paths, or a DataFrame.

``work`` is a JSON object; every shape has ``input`` (the input's name) and ``kind``:

- ``files``: ``root``, ``names`` (path = root + name), ``sizes`` (bytes), ``versions``, ``urls`` of copied objects.
- ``parquet``: ``path``, ``size``, ``version``, ``row_groups``, ``start`` and ``stop`` (rows from the first of them), ``rows``,
  ``nullable`` (indexes of integer and boolean columns with a null somewhere in the file; absent for none),
  ``int96_unit`` (``us`` when the file has INT96 timestamps beyond the range of nanoseconds; else absent).
- ``delta`` and ``iceberg``: the same; unless the file has exactly the columns of its table, ``columns`` (those that are kept,
  in the table's order, each with its name in the file, or null) and ``row`` (an Arrow stream of one row, in base64: types and
  values of the columns that the file lacks, or has in another type).
- ``arrow``, ``orc``: the same as ``parquet`` with ``batches`` or ``stripes`` in place of ``row_groups``; ``is_stream`` for IPC
  streams. All five have ``keep_columns`` or ``drop_columns`` if the dataset does; ``nullable`` counts only the columns that are
  kept.
- ``delimited``: ``path``, ``size``, ``version``, ``start`` and ``stop`` (bytes), ``rows``, ``first`` (number of its
  first record), ``delimiter``, ``quote``, ``columns`` (absent without a header), ``types`` of the columns in the whole file,
  or as the dataset defines them, null for a column that is not kept; ``is_regular`` if there are such columns and every record
  has as many fields as the first, so that pandas can skip them; ``fields`` of a record, if that is one more than the columns
  (the last one is empty: some writers end every record with a delimiter); unless they have their default ``escape``,
  ``double_quote``, ``decimal``, ``na_values``, ``keep_default_na``, ``encoding``. With ``stream`` (``compression``,
  ``encoding``) start and stop count the bytes of the text in UTF-8 (text.py).
- ``json_lines``: the same without a dialect; ``columns`` are those that are kept.
- ``tables``: ``tables`` (several of the last seven), ``rows``; their rows are concatenated.

``first_row`` of a table is the number of its first row in the file, from 0, if ``append_row_input_columns`` has ``row``.
``keys`` of a table are kept columns whose values come from its folders: key, value, type of each. ``partition_key_value`` is
passed on in the context.

A file whose size or version (storage.py) has changed since planning is refused before run() gets any of it.
"""

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .storage import StoreFailure, check, is_remote
from .table_formats import TableReader, create_reader
from .text import BadRecord

__all__ = ["BadRecord", "FileList", "Reader"]


class FileList(list):  # type: ignore[type-arg]  # a subscripted base needs Python 3.9's typing at run time
    """A list of paths with the number of its mini-batch."""

    task_id: str = ""


class Reader:
    """Reads mini-batches; keeps the reader of the last table, which may hold data that the next mini-batch needs too."""

    def __init__(self) -> None:
        self._kind = ""
        self._table_reader: Optional[TableReader] = None
        # The tables of a mini-batch of several, and the readers that hold their data.
        self._prepared: Tuple[List[Dict[str, Any]], List[Reader]] = ([], [])

    def prepare(self, work: Dict[str, Any]) -> None:
        """Read the data of a table's *work* into memory, in place of other data; ``read`` then uses it."""
        if work["kind"] == "tables":
            self._prepared = (work["tables"], [Reader() for _ in work["tables"]])
            for table, reader in zip(*self._prepared):
                reader.prepare(table)
        else:
            table_reader = self._reader_of(work["kind"])
            if not table_reader.holds(work):
                table_reader.prepare(work)
                if table_reader.holds(work):
                    self._check(work)

    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Any:
        """Return the items of *work*, a FileList or a DataFrame, or only a *piece* (half-open range) of them.

        Raises:
            InputChanged: A file has changed since planning.
            BadRecord: A record cannot be read.
            StoreFailure: A store failed to return an object.
        """
        if work["kind"] == "files":
            return _files(work if piece is None else _some_files(work, *piece))
        if work["kind"] == "tables":
            return self._several(work["tables"], piece)
        return _with_keys(self._table(work, piece), work.get("keys", ()))

    def arrow(self, work: Dict[str, Any], frame: Any) -> Any:
        """Return *frame*, just read for *work*, as an Arrow table; its columns have the types of an Arrow or Parquet file."""
        return self._reader_of(work["kind"]).arrow(work, frame)

    def _several(self, tables: List[Dict[str, Any]], piece: Optional[Sequence[int]]) -> Any:
        import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

        prepared, readers = self._prepared
        self._prepared = ([], [])
        if prepared != tables:
            readers = [self] * len(tables)
        frame = pd.concat([reader.read(table) for table, reader in zip(tables, readers)], ignore_index=True)
        return frame if piece is None else frame.iloc[piece[0] : piece[1]].reset_index(drop=True)

    def _table(self, work: Dict[str, Any], piece: Optional[Sequence[int]]) -> Any:
        """Return the rows of *work*. Checks the version afterwards: a file that still has it had it during the read."""
        reader = self._reader_of(work["kind"])
        is_far = is_remote(work["path"])
        is_cached = is_far and reader.holds(work)  # and was checked when it was read
        try:
            frame = reader.read(work, piece)
        except Exception as error:
            self._check(work)
            if is_far and isinstance(error, OSError):
                raise StoreFailure(f"cannot read {work['path']}: {type(error).__name__}: {error}") from error
            raise
        if not is_cached:
            self._check(work)
        return frame

    def _reader_of(self, kind: str) -> TableReader:
        if self._table_reader is None or self._kind != kind:
            self._kind, self._table_reader = kind, create_reader(kind)
        return self._table_reader

    def _check(self, work: Dict[str, Any]) -> None:
        try:
            check(work["path"], work["size"], work["version"])
        except BaseException:
            self._table_reader = None  # what it holds may be of another version
            raise


def _with_keys(frame: Any, keys: Sequence[Sequence[Any]]) -> Any:
    """Return *frame* with partition keys as its last columns."""
    for key, value, kind in keys:
        if key in frame.columns:
            frame = frame.drop(columns=key)
        frame[key] = _timestamp(value) if kind == "timestamp" and value is not None else value
    return frame


def _timestamp(text: str) -> Any:
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    return pd.Timestamp(text)


def _files(work: Dict[str, Any]) -> FileList:
    root = work["root"]
    paths = FileList([root + name for name in work["names"]])
    stat = os.stat
    for path, size, version in zip(paths, work["sizes"], work["versions"]):
        try:
            status = stat(path)
        except OSError:
            check(path, size, version)
            raise
        if status.st_size != size or status.st_mtime_ns != version:
            check(path, size, version)
    return paths


def _some_files(work: Dict[str, Any], start: int, stop: int) -> Dict[str, Any]:
    return {**work, **{key: work[key][start:stop] for key in ("names", "sizes", "versions")}}
