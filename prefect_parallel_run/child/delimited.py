"""Delimited text: the bytes of a mini-batch as a DataFrame, with the types that the whole file has."""

import io
from typing import Any, Dict, NoReturn, Sequence

from .dialect import dialect_of, pandas_options, records
from .table_types import of_one_type
from .text import BOM, BadRecord, not_encoded

_OTHER_DELIMITERS = ";\t|"
_LONGEST_HEADER = 60  #: characters of a header that an error shows


def read_records(work: Dict[str, Any], data: bytes) -> Any:
    """Return the records in *data*."""
    import warnings  # noqa: PLC0415  only tables need it

    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    options = {**pandas_options(work), "header": None}
    names = work.get("columns", range(len(work["types"])))
    # Only texts must be told beforehand: "007" is a number to who looks at this mini-batch alone.
    options["dtype"] = {name: str for name, kind in zip(names, work["types"]) if kind == "text"}
    if "columns" in work:
        options.update(names=work["columns"], index_col=False)
    if data.startswith(BOM) and options["encoding"] == "utf-8":
        data = b"\n" + data  # the file's own mark is left out already: this one is text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return of_one_type(pd.read_csv(io.BytesIO(data), **options), work["types"])
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _name_the_record(work, data, str(error))
    except UnicodeDecodeError as error:
        raise BadRecord(f"{place(work)}: {not_encoded(options['encoding'], error)}") from None


def some_records(work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
    """Return the bytes of records *start* to *stop* of *data*; a broken record among the others does not matter."""
    spans = list(records(data, dialect_of(work)))[start:stop]
    return b"".join(data[begin:end] for begin, end, _ in spans)


def place(work: Dict[str, Any]) -> str:
    """Return the words for where a mini-batch's records are."""
    return f"{work['path']}, {work['rows']} records from {work['first']} on"


def likely_delimiter(columns: Sequence[str], delimiter: str) -> str:
    """Return what probably stands between the fields when a header has one column only; an empty text when it is *delimiter*.

    >>> likely_delimiter(["id;day;amount"], ","), likely_delimiter(["id", "a;b"], ","), likely_delimiter(["a;b|c"], ",")
    (';', '', '')
    """
    found = [one for one in _OTHER_DELIMITERS if len(columns) == 1 and one in columns[0] and one != delimiter]
    return found[0] if len(found) == 1 else ""


def _name_the_record(work: Dict[str, Any], data: bytes, reason: str) -> NoReturn:
    """Raise BadRecord for the first record that has too many fields."""
    columns = len(work["columns"]) if "columns" in work else None
    for number, (_, _, fields) in enumerate(records(data, dialect_of(work)), work["first"]):
        columns = fields if columns is None else columns
        if fields > columns:
            raise BadRecord(f"{work['path']}, record {number} has {_count(fields, 'field')}, but {_columns(work, columns)}")
    raise BadRecord(f"{place(work)}: {reason}")


def _columns(work: Dict[str, Any], columns: int) -> str:
    """Return in words what the file's columns are, and what may be wrong with that."""
    delimiter = work["delimiter"]
    if "columns" not in work:
        return f"the record in front has {_count(columns, 'field')} (delimiter {delimiter!r})"
    header = delimiter.join(work["columns"])
    shown = header if len(header) <= _LONGEST_HEADER else header[: _LONGEST_HEADER - 1] + "…"
    likely = likely_delimiter(work["columns"], delimiter)
    words = f"the header has {_count(columns, 'column')}: {shown!r} (delimiter {delimiter!r})"
    return f"{words}; is the delimiter {likely!r}?" if likely else words


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
