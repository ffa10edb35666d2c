"""The types of a table's columns: those of the whole file, whatever this part of it looks like."""

from typing import Any, Sequence

GIVEN = ("string", "int64", "Int64", "float64", "boolean")  #: pandas' types that a dataset may give its columns
_PANDAS = {"int": "int64", "float": "float64", "bool": "bool", "bool_or_null": "object", "other": "object"}


def of_one_type(frame: Any, kinds: Sequence[str]) -> Any:
    """Return *frame*, read from text, with columns of these kinds."""
    for place, kind in enumerate(kinds[: frame.shape[1]]):
        column = frame.iloc[:, place]
        if kind in _PANDAS and column.dtype != _PANDAS[kind]:
            frame = frame.astype({frame.columns[place]: _PANDAS[kind]})
    return frame


def with_gaps(frame: Any, places: Sequence[int]) -> Any:
    """Return *frame*, made by Arrow, with columns of the types that a null gives them: there is one somewhere in the file."""
    for place in places:
        column = frame.iloc[:, place]
        if column.dtype.kind in "iu":
            frame.isetitem(place, column.astype("float64"))
        elif column.dtype.kind == "b":
            frame.isetitem(place, column.astype(object))
    return frame
