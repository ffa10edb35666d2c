"""Structured numpy arrays as tables: their fields are the columns."""

import functools
import sys
from typing import Any


def with_columns(value: Any) -> Any:
    """Return a structured array, or a list of its elements, as a DataFrame; any other value as it is.

    Raises:
        ValueError: The array has more than one dimension, or the elements have different fields.
    """
    numpy = sys.modules.get("numpy")  # a script that never imported it cannot return one
    if numpy is None:
        return value
    if isinstance(value, (list, tuple)):
        if not value or not _is_element(numpy, value[0]):
            return value
        value = _array_of(numpy, value)
    if not isinstance(value, numpy.ndarray) or not value.dtype.names:
        return value
    if value.ndim != 1:
        raise ValueError(
            f"run() returned a structured numpy.ndarray of {value.ndim} dimensions; expected 1 dimension, with one element"
            " for each row and one field for each column; return array.ravel()"
        )
    import pandas as pd  # noqa: PLC0415  most scripts return no such array

    return pd.DataFrame({name: _column(value[name]) for name in value.dtype.names}, index=range(len(value)))


def _is_element(numpy: Any, value: Any) -> bool:
    return isinstance(value, numpy.void) and bool(value.dtype.names)


def _array_of(numpy: Any, elements: Any) -> Any:
    """Return a structured array of elements, which may come from arrays with strings and numbers of different widths."""
    names = elements[0].dtype.names
    for number, element in enumerate(elements):
        if not _is_element(numpy, element) or element.dtype.names != names:
            found = f"the fields {element.dtype.names}" if _is_element(numpy, element) else f"a {type(element).__name__}"
            raise ValueError(
                f"row {number} of this mini-batch has different columns than row 0: {found}, row 0 the fields {names}"
            )
    dtype = functools.reduce(numpy.promote_types, {element.dtype for element in elements})
    return numpy.array([element.astype(dtype) for element in elements], dtype)


def _column(values: Any) -> Any:
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
