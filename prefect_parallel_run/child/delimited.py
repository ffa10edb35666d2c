"""Delimited text: the bytes of a mini-batch as a DataFrame, with the types that the whole file has."""

import io
import re
from typing import Any, Dict, NoReturn, Sequence

from .csv_dialect import dialect_of, fields_of_first, pandas_options, records
from .table_types import GIVEN, of_one_type
from .text import BOM, BadRecord, not_encoded

_OTHER_DELIMITERS = ";\t|"
_TRUTH = re.compile(rb"(?i)true|false")
_LONGEST_HEADER = 60  #: characters of a header that an error shows


def read_records(work: Dict[str, Any], data: bytes) -> Any:
    """Return the records in *data*."""
    import warnings  # noqa: PLC0415  only tables need it

    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    names = work.get("columns", range(len(work["types"])))
    allowed = work.get("fields", len(names))
    options = {**pandas_options(work), "header": None, "names": names, "index_col": False}
    given = {name: kind for name, kind in zip(names, work["types"]) if kind in GIVEN}
    # Only texts must be told beforehand: "007" is a number to who looks at this mini-batch alone.
    text = pd.api.types.pandas_dtype(str)  # looked up once, not for every column
    options["dtype"] = {**{name: text for name, kind in zip(names, work["types"]) if kind == "text"}, **given}
    if allowed > len(names):
        further = " ".join(names) + " "  # no other column can have this name
        options["names"] = [*names, further]
        options["dtype"][further] = text
    if fields_of_first(data, dialect_of(work)) > allowed:  # pandas would count by this record
        _name_the_record(work, data, "the first record has too many fields")
    if data.startswith(BOM) and options["encoding"] == "utf-8":
        data = b"\n" + data  # the file's own mark is left out already: this one is text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of a cast that pandas refuses a moment later
            return of_one_type(_without_extra(work, data, _read(data, options)), work["types"])
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _name_the_record(work, data, str(error))
    except UnicodeDecodeError as error:
        raise BadRecord(f"{place(work)}: {not_encoded(options['encoding'], error)}") from None
    except (ValueError, TypeError, OverflowError):
        _name_the_value(work, data, options, given)
        raise


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


def _without_extra(work: Dict[str, Any], data: bytes, frame: Any) -> Any:
    """Return *frame* without the field behind the last column, if there is one; it must be empty everywhere."""
    columns = len(work["types"])
    if frame.shape[1] > columns:
        filled = (frame.iloc[:, columns].fillna("") != "").to_numpy()
        if filled.any():
            _name_the_record({**work, "fields": columns}, data, "a record has too many fields", int(filled.argmax()))
        frame = frame.iloc[:, :columns]
    return frame


def _name_the_record(work: Dict[str, Any], data: bytes, reason: str, position: int = 0) -> NoReturn:
    """Raise BadRecord for the first record that has too many fields, from the one at *position* on."""
    allowed = work.get("fields", len(work["types"]))
    found = list(records(data, dialect_of(work)))[position:]
    for number, (_, _, fields) in enumerate(found, work["first"] + position):
        if fields > allowed:
            raise BadRecord(f"{work['path']}, record {number} has {_count(fields, 'field')}, but {_columns(work)}")
    raise BadRecord(f"{place(work)}: {reason}")


def _name_the_value(work: Dict[str, Any], data: bytes, options: Dict[str, Any], given: Dict[Any, str]) -> None:
    """Raise BadRecord for the first record with a value that does not fit the type that the dataset gives its column."""
    if _fits(data, options, given):
        return
    spans = list(records(data, dialect_of(work)))
    start, stop = 0, len(spans)  # it is one of these
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fits(data[spans[start][0] : spans[middle - 1][1]], options, given):
            start = middle
        else:
            stop = middle
    record = data[spans[start][0] : spans[start][1]]
    name = next(name for name, kind in given.items() if not _fits(record, options, {name: kind}))
    (value,) = _read(record, {**options, "dtype": {name: str}})[name].astype(object).tolist()
    shown = repr(value) if isinstance(value, str) else "no value"
    where = f"{work['path']}, record {work['first'] + start}, column {str(name)!r}"
    raise BadRecord(f"{where}: {shown}, where column_types says {given[name]}")


def _fits(data: bytes, options: Dict[str, Any], dtype: Dict[Any, Any]) -> bool:
    import warnings  # noqa: PLC0415  only tables need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _read(data, {**options, "dtype": dtype})
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _read(data: bytes, options: Dict[str, Any]) -> Any:
    """Return what pandas reads; it would take truth values for numbers where it sees no others, which depends on the cut."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    with pd.read_csv(io.BytesIO(data), **options, iterator=True) as reader:
        # pandas makes a Series of every column when types are given by name, for the sake of object columns, which there
        # are none of here; of thousands of columns that takes longer than everything else.
        reader.orig_options = {**getattr(reader, "orig_options", {}), "dtype": None}
        frame = reader.read()
    numbers = [name for name, kind in options["dtype"].items() if isinstance(kind, str) and kind in ("int64", "float64")]
    if numbers and _TRUTH.search(data):
        for name in numbers:
            if frame[name].dropna().isin([0, 1]).all():
                texts = pd.read_csv(io.BytesIO(data), **{**options, "dtype": {name: str}, "usecols": [name]})[name]
                if texts.str.lower().isin(["true", "false"]).any():
                    raise ValueError(f"column {name!r} holds truth values")
    return frame


def _columns(work: Dict[str, Any]) -> str:
    """Return in words what the file's columns are, and what may be wrong with that."""
    delimiter = work["delimiter"]
    if "columns" not in work:
        return f"the file's first record has {_count(len(work['types']), 'field')} (delimiter {delimiter!r})"
    header = delimiter.join(work["columns"])
    shown = header if len(header) <= _LONGEST_HEADER else header[: _LONGEST_HEADER - 1] + "…"
    likely = likely_delimiter(work["columns"], delimiter)
    words = f"the header has {_count(len(work['columns']), 'column')}: {shown!r} (delimiter {delimiter!r})"
    return f"{words}; is the delimiter {likely!r}?" if likely else words


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
