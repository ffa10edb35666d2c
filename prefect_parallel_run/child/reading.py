"""From the plan's words to what run() gets: a list of paths, or a DataFrame.

``work`` is a JSON object; every shape has ``input`` (the input's name) and ``kind``:

- ``files``: ``root``, ``names`` (path = root + name), ``sizes`` (bytes), ``versions``.
- ``parquet``: ``path``, ``size``, ``version``, ``row_groups``, ``start`` and ``stop`` (rows from the first of them), ``rows``.
- ``delimited``: ``path``, ``size``, ``version``, ``start`` and ``stop`` (bytes), ``rows``, ``first`` (number of its
  first record), ``delimiter``, ``quote``, ``columns`` (absent without a header), ``types`` of the columns in the whole file.
- ``json_lines``: the same without a dialect.
- ``tables``: ``tables`` (several of the last three), ``rows``; their rows one after another.

``keys`` of a table are columns whose values come from its folders: key, value, type of each. ``partition_key_value`` is
what the context carries.

A file whose size or version (sources.py) is no longer the planned one is refused before any of it is handed out.
"""

import io
import json
import os
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from .sources import StoreFailure, check, is_remote, open_file, read_range


class BadRecord(Exception):  # noqa: N818  the same
    """A record cannot be read; the text names file and record."""


class FileList(list):  # type: ignore[type-arg]  # a subscripted base needs Python 3.9's typing at run time
    """A list of paths that knows which mini-batch it is."""

    task_id: str = ""


class Items(NamedTuple):
    """The items of a mini-batch."""

    value: Any  #: FileList, or DataFrame


class Reader:
    """Reads mini-batches; the row groups decoded last are kept, since the next mini-batch is likely cut from them too."""

    def __init__(self) -> None:
        self._kept: Tuple[Any, Any] = (None, None)

    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Items:
        """Return what run() gets for *work*, or only for a *piece* (half-open range) of its items.

        Raises:
            InputChanged: A file is not the one that was planned.
            BadRecord: A record cannot be read.
            StoreFailure: A store does not give an object.
        """
        if work["kind"] == "files":
            return _files(work if piece is None else _some_files(work, *piece))
        if work["kind"] == "tables":
            return Items(self._several(work["tables"], piece))
        return Items(_with_keys(self._table_from(work, piece), work.get("keys", ())))

    def _several(self, tables: List[Dict[str, Any]], piece: Optional[Sequence[int]]) -> Any:
        import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

        frame = pd.concat([self.read(table).value for table in tables], ignore_index=True)
        return frame if piece is None else frame.iloc[piece[0] : piece[1]].reset_index(drop=True)

    def _table_from(self, work: Dict[str, Any], piece: Optional[Sequence[int]]) -> Any:
        try:
            return self._table(work, piece)
        except OSError as error:
            if not is_remote(work["path"]):
                raise
            check(work["path"], work["size"], work["version"])  # tells when the object is gone, or is another
            raise StoreFailure(f"{work['path']} could not be read: {type(error).__name__}: {error}") from error

    def _table(self, work: Dict[str, Any], piece: Optional[Sequence[int]]) -> Any:
        check(work["path"], work["size"], work["version"])
        if work["kind"] == "parquet":
            return self._parquet(work if piece is None else _some_rows(work, *piece))
        read = {"delimited": _delimited, "json_lines": _json_lines}[work["kind"]]
        data = read_range(work["path"], work["start"], work["stop"])
        if piece is not None:
            work = {**work, "rows": piece[1] - piece[0], "first": work["first"] + piece[0]}
            data = _some_records(work, data, *piece)
        frame = read(work, data)
        if len(frame) != work["rows"]:
            raise BadRecord(f"{_place(work)}: {len(frame)} rows were read where {work['rows']} were planned")
        return frame

    def _parquet(self, work: Dict[str, Any]) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415  scripts for files need no pyarrow

        key = (work["path"], work["version"], tuple(work["row_groups"]))
        if self._kept[0] != key:
            self._kept = (None, None)  # let go of the old ones first: two at once would double the memory
            with open_file(work["path"]) as source, pq.ParquetFile(source) as file:
                self._kept = (key, file.read_row_groups(work["row_groups"]))
        table = self._kept[1]
        rows = table.slice(work["start"], work["stop"] - work["start"])
        return rows.to_pandas(ignore_metadata=True)  # an index that pandas had saved is a column like the others


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


def _files(work: Dict[str, Any]) -> Items:
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
    return Items(paths)


def _some_files(work: Dict[str, Any], start: int, stop: int) -> Dict[str, Any]:
    return {**work, **{key: work[key][start:stop] for key in ("names", "sizes", "versions")}}


def _some_rows(work: Dict[str, Any], start: int, stop: int) -> Dict[str, Any]:
    return {**work, "start": work["start"] + start, "stop": work["start"] + stop, "rows": stop - start}


def _some_records(work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes of records *start* to *stop* of *data*; a broken record among the others does not matter."""
    import csv  # noqa: PLC0415  only a mini-batch that failed needs it

    lines = data.split(b"\n")
    if work["kind"] == "json_lines":
        return b"\n".join([line for line in lines if line.strip()][start:stop])
    quoting: Dict[str, Any] = {"quotechar": work["quote"]} if work["quote"] else {"quoting": csv.QUOTE_NONE}
    texts = [line.decode("utf-8", "surrogateescape") + "\n" for line in lines]
    rows = csv.reader(iter(texts), delimiter=work["delimiter"], **quoting)
    begin, spans = 0, []
    for row in rows:
        if row and (len(row) > 1 or row[0].strip(" \t\r\n")):
            spans.append((begin, rows.line_num))
        begin = rows.line_num
    chosen = spans[start:stop]
    return b"".join(lines[number] + b"\n" for begin, end in chosen for number in range(begin, end))


def _place(work: Dict[str, Any]) -> str:
    return f"{work['path']}, {work['rows']} records from {work['first']} on" if "first" in work else str(work["path"])


def _delimited(work: Dict[str, Any], data: bytes) -> Any:
    import warnings  # noqa: PLC0415  only tables need it

    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    options: Dict[str, Any] = {"sep": work["delimiter"], "header": None, "encoding": "utf-8", "low_memory": False}
    options.update({"quotechar": work["quote"]} if work["quote"] else {"quoting": 3})
    names = work.get("columns", range(len(work["types"])))
    # Only texts must be told beforehand: "007" is a number to who looks at this mini-batch alone.
    options["dtype"] = {name: str for name, kind in zip(names, work["types"]) if kind == "text"}
    if "columns" in work:
        options.update(names=work["columns"], index_col=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return _of_one_type(pd.read_csv(io.BytesIO(data), **options), work["types"])
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _name_the_record(work, data, str(error))
    except UnicodeDecodeError as error:
        raise BadRecord(f"{_place(work)}: is not UTF-8: {error}") from None


def _name_the_record(work: Dict[str, Any], data: bytes, reason: str) -> NoReturn:
    """Raise BadRecord for the first record that has too many fields."""
    import csv  # noqa: PLC0415  only a broken file needs it

    quoting: Dict[str, Any] = {"quotechar": work["quote"]} if work["quote"] else {"quoting": csv.QUOTE_NONE}
    rows = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline=""), delimiter=work["delimiter"], **quoting)
    filled = (row for row in rows if row and (len(row) > 1 or row[0].strip(" \t")))
    columns = len(work["columns"]) if "columns" in work else None
    for number, row in enumerate(filled, work["first"]):
        columns = len(row) if columns is None else columns
        if len(row) > columns:
            raise BadRecord(f"{work['path']}, record {number}: {len(row)} fields, {columns} columns")
    raise BadRecord(f"{_place(work)}: {reason}")


def _json_lines(work: Dict[str, Any], data: bytes) -> Any:
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    rows: List[Dict[str, Any]] = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadRecord(f"{work['path']}, record {work['first'] + len(rows)}: a {type(row).__name__}, not an object")
        rows.append(row)
    return _of_one_type(pd.DataFrame(rows, columns=work["columns"]), work["types"])


def _of_one_type(frame: Any, kinds: Sequence[str]) -> Any:
    """Return *frame* with columns of the types that the whole file has, whatever this part of it looks like."""
    wanted = {"int": "int64", "float": "float64", "bool": "bool", "bool_or_null": "object"}
    for place, kind in enumerate(kinds[: frame.shape[1]]):
        column = frame.iloc[:, place]
        if kind in wanted and column.dtype != wanted[kind]:
            frame = frame.astype({frame.columns[place]: wanted[kind]})
    return frame
