"""Reads delimited text: the bytes of a mini-batch as a DataFrame, with the column types of the whole file.

The scanner ends records and fields where pandas' C parser does.
"""

import io
import re
import warnings
from typing import Any, Dict, Iterator, List, Literal, NamedTuple, NoReturn, Sequence, Tuple, get_args

import pandas as pd

from .text import BOM, DTYPES, BadRecord, TextReader, location, not_encoded

ColumnType = Literal["string", "int64", "Int64", "float64", "boolean"]  #: pandas types that a dataset may set for its columns
GIVEN: Tuple[ColumnType, ...] = get_args(ColumnType)
_OTHER_DELIMITERS = ";\t|"
_BOOLEAN = re.compile(rb"(?i)true|false")
_LONGEST_HEADER = 60  #: characters of a header that an error shows
_WINDOW = 1 << 12  #: bytes searched first for the end of the first record
START, FIELD, QUOTED, ESCAPED = range(4)  #: at a record's start; inside a field; inside quotes; after an escape at the end


class Dialect(NamedTuple):
    """The special bytes; each one byte, or empty for none."""

    delimiter: bytes = b","
    quote: bytes = b""
    escape: bytes = b""
    double_quote: bool = True  #: two quotes in a quoted field stand for one

    @property
    def blanks(self) -> bytes:
        """Bytes that a blank line may contain, without the delimiter, which may be a tab."""
        return bytes(byte for byte in b" \t" if byte not in self.delimiter)


def dialect_of(work: Dict[str, Any]) -> Dialect:
    """Return the dialect of a mini-batch's work."""
    delimiter, quote, escape = work["delimiter"], work["quote"], work.get("escape", "")
    return Dialect(delimiter.encode(), quote.encode(), escape.encode(), work.get("double_quote", True))


def pandas_options(work: Dict[str, Any]) -> Dict[str, Any]:
    """Return a work's dialect as options of pandas.read_csv."""
    return {
        "sep": work["delimiter"],
        **({"quotechar": work["quote"]} if work["quote"] else {"quoting": 3}),
        "escapechar": work.get("escape"),
        "doublequote": work.get("double_quote", True),
        "decimal": work.get("decimal", "."),
        "encoding": work.get("encoding", "utf-8"),
        "na_values": work.get("na_values"),
        "keep_default_na": work.get("keep_default_na", True),
        "low_memory": False,
        "engine": "c",
    }


def scan(block: bytes, state: int, dialect: Dialect) -> Tuple[List[int], List[int], int]:
    """Return the ends of *block*'s records (after the terminator), their numbers of fields, and the state at its end."""
    delimiter, quote, escape, double_quote = dialect
    outside = re.compile(b"[" + re.escape(delimiter + quote + escape) + rb"\n\r]")
    within = re.compile(b"[" + re.escape(quote + escape) + b"]") if quote else outside
    ends: List[int] = []
    counts: List[int] = []
    fields, field_start, behind_quote = 1, 0 if state == START else -1, -1
    inside = state == QUOTED
    position, length = 0, len(block)
    while True:
        match = (within if inside else outside).search(block, position)
        if match is None:
            break
        position, byte = match.start(), match.group()
        if byte == escape and position != behind_quote:  # right after a closing quote it is an ordinary character
            if position + 1 == length:
                return ends, counts, ESCAPED
            position += 2
        elif inside:
            if double_quote and block[position + 1 : position + 2] == quote:
                position += 2
            else:
                position += 1
                inside, behind_quote = False, position if double_quote else -1
        elif byte == quote:
            inside = position == field_start
            position += 1
        elif byte == delimiter:
            position += 1
            fields, field_start = fields + 1, position
        elif byte == escape:
            position += 1
        else:
            position += 2 if block[position : position + 2] == b"\r\n" else 1
            ends.append(position)
            counts.append(fields)
            fields, field_start = 1, position
    if not length:
        return ends, counts, state
    at_start = bool(ends) and ends[-1] == length
    return ends, counts, QUOTED if inside else START if at_start else FIELD


def fields_of_first(data: bytes, dialect: Dialect) -> int:
    """Return the number of fields of the first record that is not blank; 0 when there is none."""
    line, _, _ = data.partition(b"\n")
    is_plain = not any(byte and byte in line for byte in (dialect.quote, dialect.escape)) and b"\r" not in line[:-1]
    if is_plain and line.strip(dialect.blanks + b"\r"):
        return line.count(dialect.delimiter) + 1
    size = _WINDOW
    while size < len(data):
        ends, counts, _ = scan(data[:size], START, dialect)
        for start, stop, fields in zip([0, *ends], ends, counts):
            if data[start:stop].strip(dialect.blanks + b"\r\n"):
                return fields
        size *= 4
    return next((fields for _, _, fields in records(data, dialect)), 0)


def records(data: bytes, dialect: Dialect) -> Iterator[Tuple[int, int, int]]:
    """Yield start, stop and number of fields of the records of *data* that are not blank."""
    ends, counts, _ = scan(data + b"\n", START, dialect)  # the last record may lack a terminator
    start = 0
    for stop, fields in zip(ends, counts):
        if data[start:stop].strip(dialect.blanks + b"\r\n"):
            yield start, stop, fields
        start = stop


class DelimitedReader(TextReader):
    """Reads records as pandas.read_csv does."""

    def frame(self, work: Dict[str, Any], data: bytes) -> Any:
        """Return the records."""
        options = _options(work)
        if fields_of_first(data, dialect_of(work)) > len(options["names"]):  # pandas would take its number of columns from it
            _raise_for_record(work, data, "the first record has too many fields")
        if data.startswith(BOM) and options["encoding"] == "utf-8":
            data = b"\n" + data  # the file's own mark was removed before: this one is text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                warnings.simplefilter("ignore", RuntimeWarning)  # from numpy, for a cast that pandas then refuses
                frame = _without_extra(work, data, _read(data, options))
                kept = _kept(work)
                frame = frame if frame.shape[1] == len(kept) else frame.iloc[:, kept]
                return _of_one_type(frame, [work["types"][index] for index in kept])
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
    # Only strings need their type in advance: "007" looks like a number within this mini-batch.
    text = pd.api.types.pandas_dtype(str)  # looked up once, not for every column
    names = work.get("columns", range(len(work["types"])))
    strings = ("text", None)  # the values of a column that is not kept do not matter
    dtype = {name: text if kind in strings else kind for name, kind in zip(names, work["types"]) if kind in (*strings, *GIVEN)}
    kept = _kept(work)
    usecols = kept if work.get("is_regular") and kept else None
    if work.get("fields", len(names)) > len(names):
        extra = " ".join(names) + " "  # no other column can have this name
        usecols = usecols and [*usecols, len(names)]
        names, dtype[extra] = [*names, extra], text
    if usecols is not None:
        dtype = {names[index]: dtype[names[index]] for index in usecols if names[index] in dtype}
    return {**pandas_options(work), "header": None, "names": names, "index_col": False, "dtype": dtype, "usecols": usecols}


def _kept(work: Dict[str, Any]) -> List[int]:
    return [index for index, kind in enumerate(work["types"]) if kind is not None]


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
    if work.get("fields", columns) > columns:
        filled = (frame.iloc[:, -1].fillna("") != "").to_numpy()
        if filled.any():
            _raise_for_record({**work, "fields": columns}, data, "a record has too many fields", int(filled.argmax()))
        frame = frame.iloc[:, :-1]
    return frame


def _of_one_type(frame: Any, kinds: Sequence[str]) -> Any:
    """Return *frame*, read from text, with columns of these kinds.

    Columns that change are cast together: casting thousands of columns one by one would cost more than reading them.
    """
    changes: Dict[str, List[int]] = {}  # indexes by new type
    for index, (kind, dtype) in enumerate(zip(kinds, frame.dtypes.tolist())):
        if kind in DTYPES and dtype != DTYPES[kind]:
            changes.setdefault(DTYPES[kind], []).append(index)
    if not changes:
        return frame
    changed = [index for indexes in changes.values() for index in indexes]
    kept = sorted(set(range(frame.shape[1])) - set(changed))
    parts = [frame.iloc[:, kept], *(frame.iloc[:, indexes].astype(dtype) for dtype, indexes in changes.items())]
    order = [*kept, *changed]
    cast = pd.concat(parts, axis=1).iloc[:, sorted(range(len(order)), key=order.__getitem__)]
    cast.columns = frame.columns
    return cast


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _read(data, {**options, "dtype": dtype})
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _read(data: bytes, options: Dict[str, Any]) -> Any:
    """Read with pandas; refuse booleans in a column of numbers, which pandas would convert if the mini-batch has no others."""
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
