"""Puts values of the items in front of the returned rows: which item a row was returned for (append_row_input_columns).

The values are copied before run() is called, which may sort, extend or change the items that it gets.
"""

from copy import deepcopy
from typing import Any, Dict, Iterable, List, Optional, Sequence

from .rows import Records, columns_of, kind_of, objects_of, to_frame

FILE_VALUES = ("path", "name")  #: the values that a file has
ROW_VALUES = ("file", "row")  #: the values that a row of a table has, besides its columns
FIRST_ROW = "first_row"  #: field of the work of a table: number of its first row in the file, from 0; only if ``row`` is wanted


class UnmatchedRows(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """The returned rows cannot be assigned to the items of their mini-batch."""


class InputColumns:
    """The wanted values of the items of a mini-batch, by column, in the order of the items."""

    def __init__(self, names: Sequence[str], items: Any, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> None:
        self._names, self._items = frozenset(names), len(items)
        start, stop = piece or (0, None)
        self._is_table = work["kind"] != "files"
        self._values: Any  # a list of each column; for a table, a DataFrame, which keeps the types of the columns
        if self._is_table:
            self._values = _of_rows(names, items, work.get("tables", [work]), slice(start, stop))
        else:
            paths = work.get("urls") or [work["root"] + name for name in work["names"][start:stop]]
            values = {"path": paths, "name": [path.rpartition("/")[2] for path in paths]}
            self._values = {name: values[name] for name in names}

    def join(self, value: Any, *, keeps_elements: bool, as_str: bool = False) -> Any:
        """Return a materialized result with these columns in front of its own, whose values do not change.

        Args:
            value: Without structured arrays.
            keeps_elements: An element of a list that is a list itself is one value; otherwise it is a row of columns.
            as_str: The elements of a list are written as str() of them.

        Raises:
            UnmatchedRows: There is not exactly one row for each item, or the rows are in another order.
            ValueError: A column of *value* has the name of one of these.
        """
        if len(value) != self._items:
            raise UnmatchedRows(
                f"run() returned {_count(len(value), 'row')} for {_count(self._items, 'item')}; append_row_input_columns needs"
                " exactly one row for every item, in the order of the items"
            )
        is_list = kind_of(value) is None
        if is_list and keeps_elements:
            return self._records(objects_of(value))
        if is_list and not self._is_table:
            names, rows = columns_of(value)
            return self._records(dict(zip(names, row)) for row in rows)
        frame = _strings(value) if is_list and as_str else to_frame(value)
        _check_order(frame.index)
        self._check_names(frame.columns)
        return self._in_front_of(frame)

    def _records(self, rows: Iterable[Dict[Any, Any]]) -> Records:
        columns = [self._values[name].tolist() if self._is_table else self._values[name] for name in self._values]
        return Records(map(self._record, zip(*columns), rows))

    def _record(self, values: Sequence[Any], columns: Dict[Any, Any]) -> Dict[Any, Any]:
        self._check_names(columns)
        return {**dict(zip(self._values, values)), **columns}

    def _in_front_of(self, frame: Any) -> Any:
        import pandas as pd  # noqa: PLC0415  a script that returns lists for files needs no pandas

        # Arrow refuses a path with undecodable bytes as a string, so paths stay objects.
        values = self._values if self._is_table else pd.DataFrame(self._values, dtype=object)
        return pd.concat([values.set_axis(frame.index, axis=0), frame], axis=1)  # by position: the indexes are equal

    def _check_names(self, names: Iterable[Any]) -> None:
        clash = sorted(self._names.intersection(map(str, names)))
        if clash:
            raise ValueError(
                f"run() returned a column {clash[0]!r}, and append_row_input_columns adds one of that name; rename the returned"
                " column, or remove the name from append_row_input_columns"
            )


def _of_rows(names: Sequence[str], frame: Any, tables: List[Dict[str, Any]], piece: slice) -> Any:
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    labels = [str(label) for label in frame.columns]  # numbers without a header
    columns = {}
    for name in names:
        if name == "file":
            columns[name] = pd.Series([table["path"] for table in tables for _ in range(table["rows"])][piece], dtype=object)
        elif name == "row":
            ranges = (range(table[FIRST_ROW], table[FIRST_ROW] + table["rows"]) for table in tables)
            columns[name] = pd.Series([number for numbers in ranges for number in numbers][piece], dtype="int64")
        else:
            columns[name] = _copied(frame.iloc[:, labels.index(name)])
    return pd.concat(columns, axis=1)


def _copied(column: Any) -> Any:
    """Return a copy of a column, including the lists and dicts in it."""
    if column.dtype != object:
        return column.copy()
    return type(column)(deepcopy(column.tolist()), dtype=object)


def _strings(elements: Any) -> Any:
    """Return list elements as a DataFrame of strings and nulls: pandas would write other numbers and dates than str()."""
    import pandas as pd  # noqa: PLC0415  scripts for files need no pandas

    names, rows = columns_of(elements)
    strings = [[value if value is None or isinstance(value, str) else str(value) for value in row] for row in rows]
    return pd.DataFrame(strings, columns=names, dtype=object)


def _check_order(index: Any) -> None:
    """Raise UnmatchedRows for an index which shows that the rows were sorted or shuffled: a permutation of the positions."""
    import numpy as np  # noqa: PLC0415  comes with pandas

    if not isinstance(index.dtype, np.dtype) or index.dtype.kind not in "iu":
        return
    numbers, positions = index.to_numpy(), np.arange(len(index))
    if (numbers != positions).any() and (np.sort(numbers) == positions).all():
        raise UnmatchedRows(
            f"run() returned its rows in another order than the items: their index begins with {numbers[:5].tolist()}, and"
            " append_row_input_columns takes row 0 for item 0; return frame.sort_index(), or"
            " frame.reset_index(drop=True) if the order is right"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
