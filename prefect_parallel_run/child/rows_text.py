"""Text rows: str() of every element, or the columns of a DataFrame or 2-d array separated by blanks.

A DataFrame has the bytes of pandas, but where possible faster, with Arrow, column by column: pandas passes every value to
Python's csv module, one or two microseconds a row. Here a column of numbers, booleans or strings becomes a column of fields,
and the fields are joined in one call. Values that might not give the same bytes are left to pandas.
"""

import csv
import io
import re
from typing import Any, Dict, List, Optional

from .rows import Encoded, Records, RowFormat, columns_of, has_columns, kind_of, to_frame, to_utf8

MANY_ROWS = 100  #: from this number on Arrow is faster than pandas
_PLAIN_SEPARATORS = " ,;\t|"  #: never part of a number or boolean, so that only strings may need quotes
_DIALECT = {"quoting", "quotechar", "doublequote", "escapechar"}  #: options that change how a field is quoted
#: Column types that Arrow and pandas treat alike; the values of object and category columns are checked too.
_KNOWN = {
    *(f"{kind}{bits}" for kind in ("int", "uint", "Int", "UInt") for bits in (8, 16, 32, 64)),
    *("bool", "boolean", "str", "string", "object", "category"),
}
#: Above 0.0001 and below this, every version of numpy and Arrow writes floats without an exponent.
_PLAIN_BELOW = {"float64": 1e10, "float32": 1e6}


class Text(RowFormat):
    """One line per row."""

    extension = ".txt"
    has_csv_options = True

    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:  # noqa: D102  inherited
        if has_columns(value) or (isinstance(value, Records) and options):
            return encode_frame(to_frame(value), {"sep": " ", **options}, with_header)
        if isinstance(value, Records) and value:
            names, columns = columns_of(value)
            return Encoded(len(columns), lines([names], " ") if with_header else b"", lines(columns, " "))
        encoding = options.get("encoding", "")
        if kind_of(value) is not None and not encoding and len(value) >= MANY_ROWS and _are_plain_floats(value):
            body = delimited(to_frame(value), " ")
            if body is not None:
                return Encoded(len(value), b"", body)
        rows = value if _are_strings(value) else [str(element) for element in value]
        text = "\n".join(rows) + "\n" if rows else ""
        return Encoded(len(rows), b"", text.encode(encoding) if encoding else to_utf8(text))


def _are_strings(value: Any) -> bool:
    """Return whether a list or tuple has only strings, which need no str(); a subclass, such as a member of an enum, does."""
    return isinstance(value, (list, tuple)) and bool(value) and type(value[0]) is str and set(map(type, value)) == {str}


def _are_plain_floats(value: Any) -> bool:
    """Return whether a Series or array has only floats that a DataFrame writes like str(), which excludes NaN."""
    import numpy as np  # noqa: PLC0415  imported already: the value is numpy's or pandas'

    is_plain = type(value).__name__ in ("ndarray", "Series") and isinstance(value.dtype, np.dtype)  # a masked array is not
    return is_plain and value.dtype == np.float64 and not np.isnan(value).any()


def encode_frame(frame: Any, keywords: Dict[str, Any], with_header: bool) -> Encoded:
    """Return a DataFrame as pandas writes it with these options; by default without index, minimally quoted, in UTF-8."""
    if not frame.shape[1]:
        return Encoded(len(frame), b"", b"\n" * len(frame))
    options = {"index": False, **keywords, "lineterminator": "\n"}
    encoding, names = options.pop("encoding", ""), options.pop("header", True)
    header = frame.iloc[:0].to_csv(header=names, **options) if with_header else ""
    is_plain = keywords.keys() == {"sep"} and keywords["sep"] in _PLAIN_SEPARATORS
    body = delimited(frame, keywords["sep"]) if is_plain and len(frame) >= MANY_ROWS else None
    if body is not None:
        return Encoded(len(frame), to_utf8(header), body)
    text = frame.to_csv(header=False, **options)
    if "\r" in text and not _DIALECT & keywords.keys():
        # pandas does not quote it, and a reader would mistake it for the end of a row
        text = with_unix_line_ends(frame.to_csv(header=False, **{**options, "lineterminator": "\r\n"}))
    if encoding:
        return Encoded(len(frame), header.encode(encoding), text.encode(encoding))
    return Encoded(len(frame), to_utf8(header), to_utf8(text))


def lines(rows: Any, separator: str) -> bytes:
    """Return rows of fields as delimited text in UTF-8, without pandas."""
    text = io.StringIO()
    # A carriage return at the line ends makes the writer quote one in a field.
    csv.writer(text, delimiter=separator, lineterminator="\r\n").writerows(rows)
    return to_utf8(with_unix_line_ends(text.getvalue()))


def with_unix_line_ends(text: str) -> str:
    """Return text whose rows end in a newline instead of a carriage return and a newline, with unchanged fields."""
    parts = text.split('"')
    parts[::2] = [part.replace("\r\n", "\n") for part in parts[::2]]
    return '"'.join(parts)


def delimited(frame: Any, separator: str) -> Optional[bytes]:
    """Return the rows of a DataFrame as its to_csv() writes them without header and index, every one ending in a newline.

    Args:
        frame: A DataFrame of any kind.
        separator: One character.

    Returns:
        UTF-8; None when only pandas can write these columns, or when pyarrow is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415  only for scripts that return frames
        import pyarrow as pa  # noqa: PLC0415  may be missing in the script's interpreter
    except ImportError:
        return None
    if type(frame) is not pd.DataFrame or not len(frame) or not frame.shape[1]:  # a subclass may override to_csv
        return None
    if not all(_is_known(dtype) for dtype in frame.dtypes):
        return None
    fields = []
    for index in range(frame.shape[1]):
        try:
            field = _fields(frame.iloc[:, index], separator)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):  # lone surrogates, objects that Arrow cannot hold
            return None
        if field is None:
            return None
        fields.append(field)
    return _rows(fields, separator)


def _is_known(dtype: Any) -> bool:
    is_known = dtype.name in _KNOWN or dtype.name in _PLAIN_BELOW or dtype.name.endswith("[pyarrow]")
    return is_known and getattr(dtype, "byteorder", "=") in "=|"


def _fields(column: Any, separator: str) -> Any:
    """Return a column as Arrow strings, null where the field is empty; None when only pandas can write it."""
    import pyarrow as pa  # noqa: PLC0415  the caller made sure of it
    import pyarrow.compute as pc  # noqa: PLC0415  the caller made sure of pyarrow

    if column.dtype.name in _PLAIN_BELOW:
        return _floats(column)
    values = pa.array(column, from_pandas=True)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return _quoted(values.cast(pa.large_string()), separator)
    is_typed = column.dtype.name not in ("object", "category")  # a number in an object column may have its own __str__
    if pa.types.is_null(values.type) or (is_typed and pa.types.is_integer(values.type)):
        return values.cast(pa.large_string())
    if is_typed and pa.types.is_boolean(values.type):
        return pc.if_else(values, _scalar("True"), _scalar("False"))
    return None


def _floats(column: Any) -> Any:
    """Return floats as numpy writes them: the shortest text that reads back, like Arrow's, but with ".0" after integral
    numbers and with different exponents.
    """
    import numpy as np  # noqa: PLC0415  comes with pandas
    import pyarrow as pa  # noqa: PLC0415  the caller made sure of it
    import pyarrow.compute as pc  # noqa: PLC0415  the caller made sure of pyarrow

    numbers, is_empty = column.to_numpy(), column.isna().to_numpy()
    with np.errstate(invalid="ignore"):  # a signalling NaN
        size = np.abs(numbers)
        is_plain = ((size > 1e-4) & (size < _PLAIN_BELOW[column.dtype.name])) | (size == 0)
        is_whole = is_plain & (size == np.trunc(size))
    text = pa.array(numbers, mask=is_empty).cast(pa.large_string())
    if is_whole.any():
        with_fraction = pc.binary_join_element_wise(text, _scalar(".0"), _scalar(""))
        text = with_fraction if is_whole.all() else pc.if_else(is_whole, with_fraction, text)
    is_odd = ~(is_plain | is_empty)
    if is_odd.any():
        odd = numbers[is_odd]
        strings = list(map(repr, odd.tolist())) if odd.dtype == np.float64 else odd.astype(str).tolist()
        text = pc.replace_with_mask(text, is_odd, pa.array(strings, pa.large_string()))
    return text


def _quoted(text: Any, separator: str) -> Any:
    """Quote the fields that contain a separator, a quote or a newline; return None if one contains a carriage return, which
    encode_frame treats specially, or a null byte, which versions of Python treat differently.
    """
    import numpy as np  # noqa: PLC0415  comes with pandas
    import pyarrow.compute as pc  # noqa: PLC0415  the caller made sure of it

    text.validate(full=True)  # an Arrow column of the script may contain invalid UTF-8, for which pandas raises
    _, offsets, data = text.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[[text.offset, text.offset + len(text)]].tolist()
    characters = data[start:stop].to_pybytes() if stop > start else b""
    if b"\r" in characters or b"\0" in characters:
        return None
    if b'"' in characters:
        doubled = pc.replace_substring(text, '"', '""')
    elif separator.encode() in characters or b"\n" in characters:
        doubled = text
    else:
        return text
    needs_quotes = pc.match_substring_regex(text, f'[{re.escape(separator)}"\n]')
    return pc.if_else(needs_quotes, pc.binary_join_element_wise(_scalar('"'), doubled, _scalar('"'), _scalar("")), text)


def _rows(fields: List[Any], separator: str) -> bytes:
    """Join the fields to rows and return their bytes, which an Arrow column stores without gaps."""
    import pyarrow.compute as pc  # noqa: PLC0415  the caller made sure of it

    if len(fields) == 1:  # an empty line would not be a row: the csv module writes an empty field in quotes
        is_empty = pc.equal(pc.fill_null(fields[0], ""), "")
        fields = [pc.if_else(is_empty, _scalar('""'), fields[0])]
    empty = {"null_handling": "replace", "null_replacement": ""}
    last = pc.binary_join_element_wise(fields[-1], _scalar("\n"), _scalar(""), **empty)
    rows = pc.binary_join_element_wise(*fields[:-1], last, _scalar(separator), **empty)
    text: bytes = rows.buffers()[2].to_pybytes()
    return text


def _scalar(text: str) -> Any:
    import pyarrow as pa  # noqa: PLC0415  the caller made sure of it

    return pa.scalar(text, pa.large_string())


FORMAT = Text()
