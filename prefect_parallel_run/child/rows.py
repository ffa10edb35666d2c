"""The rows that run() returned: which values have rows and columns, and the registry of the formats to write them in."""

import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from importlib import import_module
from numbers import Integral
from types import GeneratorType
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Sequence, Tuple, cast, get_args

from .entry_script import current
from .failure import describe, without_secrets

#: The output formats. NAME is encoded by rows_NAME.py and published by its entry in output/formats/.
FormatName = Literal["text", "csv", "jsonl", "parquet", "orc"]
ROW_FORMATS: Tuple[FormatName, ...] = get_args(FormatName)
ELEMENT = "value"  #: name of the column of plain list elements
_NOT_AWAITED = "that was not awaited (await it in async def run())"
_QUOTED = 100  #: characters of a returned string, in errors


class WrongType(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """run() returned a value without rows, or a row that cannot be one.

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


class ExceptionReturned(WrongType):
    """run() returned an exception, or rows with one, which would be written as if its item had succeeded.

    Attributes:
        row: Number of the row; None if the exception is the returned value.
    """

    def __init__(self, found: str, quote: str, row: Optional[int] = None) -> None:
        super().__init__(found, quote)
        self.args, self.row = (found, quote, row), row

    def __str__(self) -> str:
        where = "run() returned" if self.row is None else f"row {self.row} that run() returned is"
        article = "an" if self.found[0] in "AEIOUaeiou" else "a"
        return (
            f"{where} {article} {self.found}{self.quote and ': '}{self.quote}; raise it to fail the mini-batch, or leave it out"
            " of the returned rows to fail only its item"
        )


class Records(list):  # type: ignore[type-arg]  # a subscripted base needs Python 3.9's typing at run time
    """Rows as dicts with the columns as keys, which every format writes as columns."""


class Encoded(NamedTuple):
    """The rows of a mini-batch as bytes."""

    rows: int
    header: bytes  #: line with the column names, or the schema; empty when the format has none
    body: bytes


class RowFormat(ABC):
    """An output format: how a child encodes rows, and what the configuration and later steps have to know about it.

    Attributes:
        suffix: Ending of the file names that choose this format; "" for none.
        extension: Ending of the names of the parts of a result, if it is not ``suffix``.
        has_csv_options: ``append_row_csv_options`` apply.
        always_has_header: ``append_row_header`` does not apply, because there always is a header line.
        keeps_elements: A list among the returned elements is one value, not a row of columns.
        table_format: How another step reads the result as a table; "" when it reads it as a file.
    """

    suffix = ""
    extension = ""
    has_csv_options = False
    always_has_header = False
    keeps_elements = False
    table_format = ""

    @abstractmethod
    def encode(self, value: Any, with_header: bool, options: Dict[str, Any]) -> Encoded:
        """Encode a materialized result without structured arrays; for the parameters see ``encode``."""


@functools.lru_cache(maxsize=None)
def row_format(name: str) -> RowFormat:
    """Return the output format of that name."""
    return cast("RowFormat", import_module(f"{__package__}.rows_{name}").FORMAT)


def encode(
    value: Any, format_name: str, with_header: bool, options: Optional[Dict[str, Any]] = None, inputs: Any = None
) -> Encoded:
    """Encode a materialized result.

    Args:
        value: list, tuple, DataFrame, Series or array.
        format_name: One of ROW_FORMATS.
        with_header: Add a header line to ``text`` if the value has columns.
        options: Options of pandas.DataFrame.to_csv, for ``csv``, and for ``text`` if the value has columns.
        inputs: InputColumns to put in front of the rows, or None.
    """
    value = with_inputs(value, format_name, options, inputs)
    return row_format(format_name).encode(value, with_header, options or {})


def with_inputs(value: Any, format_name: str, options: Optional[Dict[str, Any]], inputs: Any) -> Any:
    """Return a materialized result as it is encoded: a structured array as a DataFrame, *inputs* in front of the rows."""
    value, rows = _with_columns(value), row_format(format_name)
    if inputs is None:
        return value
    return inputs.join(value, keeps_elements=rows.keeps_elements, as_str=rows.has_csv_options and not options)


def materialize(result: Any) -> Any:
    """Return *result*, a generator as a list; raises WrongType for a value without rows, or with a row that cannot be one."""
    if isinstance(result, GeneratorType):
        result = list(result)
    if isinstance(result, (list, tuple)):
        _check_rows(result)
        return result
    if isinstance(result, BaseException):
        raise _returned(result)
    if isinstance(result, Awaitable):
        raise WrongType(f"{_type_name(result)} {_NOT_AWAITED}")
    if kind_of(result) is None:
        raise WrongType(_type_name(result), _quote(result) if isinstance(result, str) else "", current.refused)
    return result


def _check_rows(rows: Sequence[Any]) -> None:
    """Raise WrongType for the first coroutine, task or exception among the rows."""
    refused = {kind for kind in set(map(type, rows)) if issubclass(kind, (Awaitable, BaseException))}  # quick: few types
    if not refused:
        return
    number, row = next((number, row) for number, row in enumerate(rows) if type(row) in refused)
    if isinstance(row, BaseException):
        raise _returned(row, number)
    raise WrongType(f"a {type(rows).__name__} with a {type(row).__name__} {_NOT_AWAITED}")


def _returned(error: BaseException, row: Optional[int] = None) -> ExceptionReturned:
    failure = describe(error)
    return ExceptionReturned(failure.type, failure.text, row)


def _type_name(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} of {value.ndim} dimensions" if name == "numpy.ndarray" else name


def _quote(text: str) -> str:
    """Return the first characters of *text*; secrets are removed first, because half a secret would not be recognized."""
    text = without_secrets(text)
    return repr(text) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}…"


def kind_of(value: Any) -> Optional[str]:
    """Return frame, series or array; None for anything else. A script that never imported them cannot return one."""
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return "frame"
    if pandas is not None and isinstance(value, pandas.Series):
        return "series"
    if numpy is not None and isinstance(value, numpy.ndarray) and value.ndim in (1, 2):
        return "array"
    return None


def has_columns(value: Any) -> bool:
    """Return whether *value* is a DataFrame or an array with columns."""
    kind = kind_of(value)
    return kind == "frame" or (kind == "array" and value.ndim == 2)


def to_frame(value: Any) -> Any:
    """Return *value* as a DataFrame whose rows are its elements."""
    import pandas as pd  # noqa: PLC0415  a script that returns lists of text needs no pandas

    kind = kind_of(value)
    if kind == "frame":
        return value
    if kind == "series":
        return value.to_frame(ELEMENT if value.name is None else value.name)
    if kind == "array":
        return pd.DataFrame(value, columns=None if value.ndim == 2 else [ELEMENT])
    if not len(value):
        return pd.DataFrame()
    names, rows = columns_of(value)
    frame = pd.DataFrame(rows, columns=names)
    for index, dtype in enumerate(frame.dtypes):
        if dtype.kind == "f" and _must_stay_integers(values := [row[index] for row in rows]):
            frame.isetitem(index, pd.Series(values, dtype=object))
    return frame


def _must_stay_integers(values: List[Any]) -> bool:
    """Return whether pandas makes integers floats only because of nulls beside them, or floats that differ from them."""
    integers = [value for value in values if not isinstance(value, float) and isinstance(value, Integral)]
    if any(int(float(value)) != int(value) for value in integers):
        return True
    nulls = sum(value is None or value != value for value in values)  # noqa: PLR0124  only NaN differs from itself
    return bool(integers) and len(integers) + nulls == len(values)


def columns_of(elements: Any) -> Tuple[List[Any], Any]:
    """Return column names and rows of list elements: dicts by key, lists and tuples by position, others as one column.

    A None beside dicts, lists or tuples is a row of nulls.
    """
    elements = _with_null_rows(elements, (dict, list, tuple))
    first = elements[0] if len(elements) else None
    if isinstance(first, dict):
        names: List[Any] = list(first)
        for number, element in enumerate(elements):
            if not isinstance(element, dict) or element.keys() != first.keys():
                raise _different_columns(number, _difference(first, element))
        return names, [[element[name] for name in names] for element in elements]
    if isinstance(first, (list, tuple)):
        for number, element in enumerate(elements):
            if not isinstance(element, (list, tuple)) or len(element) != len(first):
                raise ValueError(f"row {number} of this mini-batch lacks the {len(first)} columns of row 0")
        return list(range(len(first))), [list(element) for element in elements]
    return [ELEMENT], [[element] for element in elements]


def objects_of(elements: Any) -> List[Dict[Any, Any]]:
    """Return list elements as dicts, those that are not as one key; a None beside dicts has their keys."""
    rows = _with_null_rows(elements, (dict,))
    return [element if isinstance(element, dict) else {ELEMENT: element} for element in rows]


def _with_null_rows(elements: Any, kinds: Tuple[type, ...]) -> Any:
    """Return *elements* with the shape of the first that is not None, filled with nulls, in place of None."""
    first = next((element for element in elements if element is not None), None)
    if not isinstance(first, kinds):
        return elements
    nulls = dict.fromkeys(first) if isinstance(first, dict) else [None] * len(first)  # type: ignore[arg-type]
    return [nulls if element is None else element for element in elements]


def _different_columns(row: int, difference: str) -> ValueError:
    return ValueError(f"row {row} of this mini-batch has different columns than row 0: {difference}")


def _difference(first: Dict[Any, Any], element: Any) -> str:
    if not isinstance(element, dict):
        return f"it is a {type(element).__name__}"
    return ", ".join(sorted(map(repr, first.keys() ^ element.keys())))


def to_utf8(text: str) -> bytes:
    """Encode text, which may contain the undecodable bytes of a file name."""
    return text.encode("utf-8", "surrogateescape")


def _with_columns(value: Any) -> Any:
    """Return a structured array, or a list of its elements, as a DataFrame with its fields as columns; else *value*.

    Raises:
        ValueError: The array has more than one dimension, or the elements have different fields.
    """
    numpy = sys.modules.get("numpy")  # a script that never imported it cannot return one
    if numpy is None:
        return value
    if isinstance(value, (list, tuple)):
        if not value or not _is_structured(numpy, value[0]):
            return value
        value = _structured_array(numpy, value)
    if not isinstance(value, numpy.ndarray) or not value.dtype.names:
        return value
    if value.ndim != 1:
        raise ValueError(
            f"run() returned a structured numpy.ndarray of {value.ndim} dimensions; expected 1 dimension, with one element"
            " for each row and one field for each column; return array.ravel()"
        )
    import pandas as pd  # noqa: PLC0415  most scripts return no such array

    return pd.DataFrame({name: _field_column(value[name]) for name in value.dtype.names}, index=range(len(value)))


def _is_structured(numpy: Any, value: Any) -> bool:
    return isinstance(value, numpy.void) and bool(value.dtype.names)


def _structured_array(numpy: Any, elements: Any) -> Any:
    """Return a structured array of elements, which may come from arrays with strings and numbers of different widths."""
    names = elements[0].dtype.names
    for number, element in enumerate(elements):
        if not _is_structured(numpy, element) or element.dtype.names != names:
            found = f"the fields {element.dtype.names}" if _is_structured(numpy, element) else f"a {type(element).__name__}"
            raise _different_columns(number, f"{found}, row 0 the fields {names}")
    dtype = functools.reduce(numpy.promote_types, {element.dtype for element in elements})
    return numpy.array([element.astype(dtype) for element in elements], dtype)


def _field_column(values: Any) -> Any:
    """Return a field as a column of a DataFrame: nested fields as dicts, several values as a list."""
    if values.dtype.names or values.ndim > 1:
        return _plain_values(values)
    import pandas as pd  # noqa: PLC0415  most scripts return no such array

    values = values.astype(values.dtype.newbyteorder("="), copy=False)  # Arrow requires the native byte order
    mask = getattr(values, "mask", None)
    if mask is None or not mask.any():
        return values
    if values.dtype.kind in "iu":
        return pd.arrays.IntegerArray(values.data.copy(), mask.copy())  # NaN would turn them into floats
    if values.dtype.kind == "b":
        return pd.arrays.BooleanArray(values.data.copy(), mask.copy())
    return pd.Series(values.data).mask(mask)


def _plain_values(values: Any) -> Any:
    """Return an array as lists and dicts of Python values; dates as ISO 8601, because Arrow would truncate nanoseconds."""
    names = values.dtype.names
    if names:
        return [dict(zip(names, row)) for row in zip(*(_plain_values(values[name]) for name in names))]
    if values.dtype.kind not in "mM":
        return values.tolist()
    strings = values.astype(str).astype(object)
    strings[values != values] = None  # noqa: PLR0124  only NaT differs from itself
    return strings.tolist()
