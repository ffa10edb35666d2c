"""Reads delimited text: the bytes of a mini-batch as a DataFrame, with the column types of the whole file."""

import io
import re
from typing import Any, Dict, NoReturn, Sequence

from .csv_dialect import dialect_of, fields_of_first, pandas_options, records
from .table_types import GIVEN, of_one_type
from .text import BOM, BadRecord, TextReader, location, not_encoded

_OTHER_DELIMITERS = ";\t|"
_BOOLEAN = re.compile(rb"(?i)true|false")
_LONGEST_HEADER = 60  #: characters of a header that an error shows


class DelimitedReader(TextReader):
    """Reads records as pandas.read_csv does."""

    def frame(self, work: Dict[str, Any], data: bytes) -> Any:
        """Return the records."""
        import warnings  # noqa: PLC0415  only tables need it

        import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

        options = _options(work)
        if fields_of_first(data, dialect_of(work)) > len(options["names"]):  # pandas would take its number of columns from it
            _raise_for_record(work, data, "the first record has too many fields")
        if data.startswith(BOM) and options["encoding"] == "utf-8":
            data = b"\n" + data  # the file's own mark was removed before: this one is text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                warnings.simplefilter("ignore", RuntimeWarning)  # from numpy, for a cast that pandas then refuses
                return of_one_type(_without_extra(work, data, _read(data, options)), work["types"])
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            _raise_for_record(work, data, str(error))
        except UnicodeDecodeError as error:
            raise BadRecord(f"{location(work)}: {not_encoded(options['encoding'], error)}") from None
        except (ValueError, TypeError, OverflowError):
            _raise_for_value(work, data, options)
            raise

    def part(self, work: Dict[str, Any], data: bytes, start: int, stop: int) -> bytes:
        """Return records."""
        spans = list(records(data, dialect_of(work)))[start:stop]
        return b"".join(data[begin:end] for begin, end, _ in spans)


def _options(work: Dict[str, Any]) -> Dict[str, Any]:
    """Return the options of pandas.read_csv for a mini-batch."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    # Only strings need their type in advance: "007" looks like a number within this mini-batch.
    text = pd.api.types.pandas_dtype(str)  # looked up once, not for every column
    names = work.get("columns", range(len(work["types"])))
    dtype = {name: text if kind == "text" else kind for name, kind in zip(names, work["types"]) if kind in ("text", *GIVEN)}
    if work.get("fields", len(names)) > len(names):
        extra = " ".join(names) + " "  # no other column can have this name
        names, dtype[extra] = [*names, extra], text
    return {**pandas_options(work), "header": None, "names": names, "index_col": False, "dtype": dtype}


def likely_delimiter(columns: Sequence[str], delimiter: str) -> str:
    """Return the likely delimiter of a header that was read as one column; an empty string if *delimiter* seems right.

    >>> likely_delimiter(["id;day;amount"], ","), likely_delimiter(["id", "a;b"], ","), likely_delimiter(["a;b|c"], ",")
    (';', '', '')
    """
    candidates = [other for other in _OTHER_DELIMITERS if len(columns) == 1 and other in columns[0] and other != delimiter]
    return candidates[0] if len(candidates) == 1 else ""


def _without_extra(work: Dict[str, Any], data: bytes, frame: Any) -> Any:
    """Return *frame* without an extra field after the last column, which must be empty in every record."""
    columns = len(work["types"])
    if frame.shape[1] > columns:
        filled = (frame.iloc[:, columns].fillna("") != "").to_numpy()
        if filled.any():
            _raise_for_record({**work, "fields": columns}, data, "a record has too many fields", int(filled.argmax()))
        frame = frame.iloc[:, :columns]
    return frame


def _raise_for_record(work: Dict[str, Any], data: bytes, reason: str, position: int = 0) -> NoReturn:
    """Raise BadRecord for the first record that has too many fields, from the one at *position* on."""
    allowed = work.get("fields", len(work["types"]))
    later = list(records(data, dialect_of(work)))[position:]
    for number, (_, _, fields) in enumerate(later, work["first"] + position):
        if fields > allowed:
            raise BadRecord(f"{work['path']}, record {number} has {_count(fields, 'field')}, but {_columns(work)}")
    raise BadRecord(f"{location(work)}: {reason}")


def _raise_for_value(work: Dict[str, Any], data: bytes, options: Dict[str, Any]) -> None:
    """Raise BadRecord for the first record with a value that does not fit the dataset's type for its column."""
    declared = {name: kind for name, kind in zip(options["names"], work["types"]) if kind in GIVEN}
    if _fits(data, options, declared):
        return
    spans = list(records(data, dialect_of(work)))
    start, stop = 0, len(spans)  # the record is one of these
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fits(data[spans[start][0] : spans[middle - 1][1]], options, declared):
            start = middle
        else:
            stop = middle
    record = data[spans[start][0] : spans[start][1]]
    name = next(name for name, kind in declared.items() if not _fits(record, options, {name: kind}))
    (value,) = _read(record, {**options, "dtype": {name: str}})[name].astype(object).tolist()
    found = repr(value) if isinstance(value, str) else "no value"
    where = f"{work['path']}, record {work['first'] + start}, column {str(name)!r}"
    raise BadRecord(f"{where}: expected {declared[name]} by column_types, got {found}")


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
    """Read with pandas; refuse booleans in a column of numbers, which pandas would convert if the mini-batch has no others."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    with pd.read_csv(io.BytesIO(data), **options, iterator=True) as reader:
        # When types are passed by name, pandas creates a Series of every column, for object columns, which do not occur here;
        # with thousands of columns that takes longer than everything else.
        reader.orig_options = {**getattr(reader, "orig_options", {}), "dtype": None}
        frame = reader.read()
    numbers = [name for name, kind in options["dtype"].items() if isinstance(kind, str) and kind in ("int64", "float64")]
    if numbers and _BOOLEAN.search(data):
        for name in numbers:
            if frame[name].dropna().isin([0, 1]).all():
                strings = pd.read_csv(io.BytesIO(data), **{**options, "dtype": {name: str}, "usecols": [name]})[name]
                if strings.str.lower().isin(["true", "false"]).any():
                    raise ValueError(f"column {name!r} contains booleans")
    return frame


def _columns(work: Dict[str, Any]) -> str:
    """Describe the file's columns, and a likely mistake, for errors."""
    delimiter = work["delimiter"]
    if "columns" not in work:
        return f"the file's first record has {_count(len(work['types']), 'field')} (delimiter {delimiter!r})"
    header = delimiter.join(work["columns"])
    excerpt = header if len(header) <= _LONGEST_HEADER else header[: _LONGEST_HEADER - 1] + "…"
    likely = likely_delimiter(work["columns"], delimiter)
    message = f"the header has {_count(len(work['columns']), 'column')}: {excerpt!r} (delimiter {delimiter!r})"
    return f"{message}; is the delimiter {likely!r}?" if likely else message


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
