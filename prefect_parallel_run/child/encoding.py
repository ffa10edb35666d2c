"""Encodes the result of run() as bytes: one row per element, in the format of the result file."""

import json
import math
import sys
from types import GeneratorType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .column_facts import facts_of, to_metadata
from .entry_script import current
from .failure import without_secrets
from .frame_text import delimited
from .nested import array_of, holds_entries
from .structured import with_columns

_ELEMENT = "value"  #: name of the column of plain list elements
_QUOTED = 100  #: characters of a returned string, in errors
_MANY_ROWS = 100  #: from this number on Arrow is faster than pandas
_PLAIN_SEPARATORS = " ,;\t|"  #: never part of a number or boolean, so that only strings may need quotes
_DIALECT = {"quoting", "quotechar", "doublequote", "escapechar"}  #: options that change how a field is quoted


class WrongType(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """run() returned a value without rows.

    Attributes:
        found: Type of the value.
        quote: Beginning of a string: often an error message of the script.
        refused: Message of a NoAzureError that the script caught, which may be the reason; "" for none.
    """

    def __init__(self, found: str, quote: str = "", refused: str = "") -> None:
        super().__init__(found, quote, refused)
        self.found, self.quote, self.refused = found, quote, refused

    def __str__(self) -> str:
        value = f"{self.found} {self.quote}" if self.quote else self.found
        text = (
            f"run() returned {value}; return a list, tuple, DataFrame, Series or 1-d or 2-d array"
            " with one row for every item that succeeded"
        )
        return f"{text}. Before, the script caught NoAzureError: {self.refused}" if self.refused else text


class Encoded(NamedTuple):
    """The rows of a mini-batch as bytes."""

    rows: int
    header: bytes  #: line with the column names, or the schema; empty when the format has none
    body: bytes


def materialise(result: Any) -> Any:
    """Return *result*, a generator as a list; raises WrongType for a value without rows."""
    if isinstance(result, (list, tuple)):
        return result
    if isinstance(result, GeneratorType):
        return list(result)
    kind = _kind(result)
    if kind is None:
        raise WrongType(_name(result), _quote(result) if isinstance(result, str) else "", current.refused)
    return result


def _quote(text: str) -> str:
    """Return the first characters of *text*; secrets are removed first, because half a secret would not be recognised."""
    text = without_secrets(text)
    return repr(text) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}…"


def row_count(value: Any) -> int:
    """Return the rows of a materialised result."""
    return len(value)


def encode(value: Any, row_format: str, with_header: bool, options: Optional[Dict[str, Any]] = None) -> Encoded:
    """Encode a materialised result.

    Args:
        value: list, tuple, DataFrame, Series or array.
        row_format: ``text``, ``csv``, ``jsonl`` or ``parquet``.
        with_header: Add a header line to ``text`` if the value has columns; ``csv`` always has one.
        options: Options of pandas.DataFrame.to_csv, for ``csv``, and for ``text`` if the value has columns.
    """
    value = with_columns(value)
    if row_format == "text":
        return _text(value, with_header, options or {})
    if row_format == "csv":
        return _csv(value, options or {})
    if row_format == "jsonl":
        return _json_lines(value)
    return _arrow(value)


def _kind(value: Any) -> Optional[str]:
    """Return frame, series or array; None for anything else. A script that never imported them cannot return one."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return "frame"
    if pandas is not None and isinstance(value, pandas.Series):
        return "series"
    if numpy is not None and isinstance(value, numpy.ndarray) and value.ndim in (1, 2):
        return "array"
    return None


def _name(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {value.ndim} dimensions" if name == "numpy.ndarray" else name


def _frame(value: Any) -> Any:
    """Return *value* as a DataFrame whose rows are its elements."""
    import pandas as pd  # noqa: PLC0415  a script that returns lists of text needs no pandas

    kind = _kind(value)
    if kind == "frame":
        return value
    if kind == "series":
        return value.to_frame(_ELEMENT if value.name is None else value.name)
    if kind == "array":
        return pd.DataFrame(value, columns=None if value.ndim == 2 else [_ELEMENT])
    if not len(value):
        return pd.DataFrame()
    names, rows = _columns(value)
    return pd.DataFrame(rows, columns=names)


def _columns(elements: Any) -> Tuple[List[Any], Any]:
    """Return column names and rows of list elements: dicts by key, lists and tuples by position, others as one column."""
    first = elements[0] if len(elements) else None
    if isinstance(first, dict):
        names: List[Any] = list(first)
        for number, element in enumerate(elements):
            if not isinstance(element, dict) or element.keys() != first.keys():
                raise ValueError(
                    f"row {number} of this mini-batch has different columns than row 0: {_differing(first, element)}"
                )
        return names, [[element[name] for name in names] for element in elements]
    if isinstance(first, (list, tuple)):
        for number, element in enumerate(elements):
            if not isinstance(element, (list, tuple)) or len(element) != len(first):
                raise ValueError(f"row {number} of this mini-batch lacks the {len(first)} columns of row 0")
        return list(range(len(first))), [list(element) for element in elements]
    return [_ELEMENT], [[element] for element in elements]


def _differing(first: Dict[Any, Any], element: Any) -> str:
    if not isinstance(element, dict):
        return f"it is a {type(element).__name__}"
    return ", ".join(sorted(map(repr, first.keys() ^ element.keys())))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:
    kind = _kind(value)
    if kind == "frame" or (kind == "array" and value.ndim == 2):
        return _delimited(_frame(value), {"sep": " ", **options}, with_header)
    encoding = options.get("encoding", "")
    if kind is not None and not encoding and len(value) >= _MANY_ROWS and _are_plain_floats(value):
        body = delimited(_frame(value), " ")
        if body is not None:
            return Encoded(len(value), b"", body)
    rows = [str(element) for element in value]
    text = "\n".join(rows) + "\n" if rows else ""
    return Encoded(len(rows), b"", text.encode(encoding) if encoding else _utf8(text))


def _are_plain_floats(value: Any) -> bool:
    """Return whether a Series or array has only floats that a DataFrame writes like str(), which excludes NaN."""
    import numpy as np  # noqa: PLC0415  imported already: the value is numpy's or pandas'

    is_plain = type(value).__name__ in ("ndarray", "Series") and isinstance(value.dtype, np.dtype)  # a masked array is not
    return is_plain and value.dtype == np.float64 and not np.isnan(value).any()


def _csv(value: Any, options: Dict[str, Any]) -> Encoded:
    if _kind(value) is not None or (options and len(value)):
        return _delimited(_frame(value), {"sep": ",", **options}, True)
    import csv  # noqa: PLC0415  only this format needs it
    import io  # noqa: PLC0415  only this format needs it

    if not len(value):
        return Encoded(0, b"", b"")
    names, rows = _columns(value)
    head, body = io.StringIO(), io.StringIO()
    csv.writer(head, lineterminator="\r\n").writerow(names)  # so that a carriage return in a field is quoted
    csv.writer(body, lineterminator="\r\n").writerows(rows)
    return Encoded(len(rows), _utf8(_unix_lines(head.getvalue())), _utf8(_unix_lines(body.getvalue())))


def _delimited(frame: Any, keywords: Dict[str, Any], with_header: bool) -> Encoded:
    """Return a DataFrame as pandas writes it with these options; by default without index, minimally quoted, in UTF-8."""
    if not frame.shape[1]:
        return Encoded(len(frame), b"", b"\n" * len(frame))
    options = {"index": False, **keywords, "lineterminator": "\n"}
    encoding, names = options.pop("encoding", ""), options.pop("header", True)
    header = frame.iloc[:0].to_csv(header=names, **options) if with_header else ""
    is_plain = keywords.keys() == {"sep"} and keywords["sep"] in _PLAIN_SEPARATORS
    body = delimited(frame, keywords["sep"]) if is_plain and len(frame) >= _MANY_ROWS else None
    if body is not None:
        return Encoded(len(frame), _utf8(header), body)
    text = frame.to_csv(header=False, **options)
    if "\r" in text and not _DIALECT & keywords.keys():
        # pandas does not quote it, and a reader would mistake it for the end of a row
        text = _unix_lines(frame.to_csv(header=False, **{**options, "lineterminator": "\r\n"}))
    if encoding:
        return Encoded(len(frame), header.encode(encoding), text.encode(encoding))
    return Encoded(len(frame), _utf8(header), _utf8(text))


def _json_lines(value: Any) -> Encoded:
    rows: Any
    if _kind(value) in ("frame", "series") or (_kind(value) == "array" and value.ndim == 2):
        frame = _frame(value)
        names = _unique([str(name) for name in frame.columns])
        columns = [frame.iloc[:, index].tolist() for index in range(len(names))]
        rows = [dict(zip(names, row)) for row in zip(*columns)]
    else:
        rows = [element if isinstance(element, dict) else {_ELEMENT: element} for element in value]
    dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode
    lines = [dump(without_nan(row)) for row in rows]
    return Encoded(len(lines), b"", _utf8("\n".join(lines) + "\n") if lines else b"")


def _unique(names: List[str]) -> List[str]:
    if len(set(names)) < len(names):
        duplicates = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"columns of the same name would overwrite each other: {', '.join(duplicates)}")
    return names


def _unix_lines(text: str) -> str:
    """Return text whose rows end in a newline instead of a carriage return and a newline, with unchanged fields."""
    parts = text.split('"')
    parts[::2] = [part.replace("\r\n", "\n") for part in parts[::2]]
    return '"'.join(parts)


def without_nan(value: Any) -> Any:
    """Return *value* with the values that JSON lacks (NaN, infinity, NaT, NA) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    return value


def plain(value: Any) -> Any:
    """Convert a value for JSON: numpy's to Python's, dates to ISO 8601, other types to a string."""
    if type(value).__name__ == "datetime64":
        return None if str(value) == "NaT" else str(value)
    if hasattr(value, "tolist"):
        return without_nan(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def _arrow(value: Any) -> Encoded:
    """Return rows as an Arrow IPC stream; the header is its schema, with the facts of column_facts.py as metadata."""
    import pyarrow as pa  # noqa: PLC0415  only this format needs it

    frame = _frame(value)
    if not len(frame):
        return Encoded(0, b"", b"")
    if not frame.shape[1]:
        raise ValueError("the rows have no columns; a Parquet file needs at least one")
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    objects = [name for name, column in frame.items() if column.dtype == object]
    try:
        table = _table(frame, [name for name in objects if holds_entries(frame[name])])
    except OverflowError:  # pyarrow infers int64 for every integer in them
        table = _table(frame, objects)
    table = table.replace_schema_metadata(to_metadata(facts_of(table)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue().to_pybytes()
    length = 8 + int.from_bytes(stream[4:8], "little")  # of the first message, including its marker and its length
    return Encoded(len(frame), stream[:length], stream[length:])


def _table(frame: Any, own: List[str]) -> Any:
    """Return a DataFrame as an Arrow table; the arrays of the columns *own* are built by array_of instead of pyarrow."""
    import pyarrow as pa  # noqa: PLC0415  only this format needs it

    table = pa.Table.from_pandas(frame.drop(columns=own), preserve_index=False)
    if not own:
        return table
    return pa.table({name: array_of(list(frame[name])) if name in own else table.column(name) for name in frame.columns})
