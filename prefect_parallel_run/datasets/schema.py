"""The column types of a table, the same in all its mini-batches, and how the columns of its files differ. Pure.

The types are those that pandas infers when it reads a file in one piece: a column of integers with a missing value contains
floats in all mini-batches, and a column with one word in it contains strings in all of them. Differences between files are not
errors, but they may spoil the result; planning warns about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

INT, FLOAT, BOOL, BOOL_OR_NULL, TEXT, NULL, OTHER = "int", "float", "bool", "bool_or_null", "text", "null", "other"
UINT = "uint"  #: nonnegative integers, some of them too large for a signed 64-bit integer
NEGATIVE = "negative"  #: signed 64-bit integers, some of them negative; only of a part: the column's type is INT
_MOST_COLUMNS = 10  #: columns with a warning of their own
_MOST_NAMES = 5  #: column names per message
_LONGEST_VALUE = 40  #: characters of a value or name in a message
_KIND_NAMES = {
    INT: "integers",
    UINT: "unsigned 64-bit integers",
    FLOAT: "floats, or integers with missing values",
    BOOL: "booleans",
    BOOL_OR_NULL: "booleans with missing values",
    TEXT: "strings",
    NULL: "no values",
    OTHER: "values of several types",
}


def together(kinds: Iterable[str]) -> str:
    """Return the type of a column that contains all *kinds*.

    >>> together(["int", "int"]), together(["int", "null"]), together(["int", "text"]), together(["bool", "null"])
    ('int', 'float', 'text', 'bool_or_null')
    >>> together(["int", "uint"]), together(["negative", "uint"]), together(["null", "uint"]), together(["float", "uint"])
    ('uint', 'text', 'text', 'float')
    """
    distinct = set(kinds)
    if UINT in distinct and FLOAT not in distinct and distinct & {NEGATIVE, NULL}:
        distinct.add(TEXT)  # no integer type fits; pandas returns strings, which keep every digit
    if NEGATIVE in distinct:
        distinct = distinct - {NEGATIVE} | {INT}
    if OTHER in distinct:
        return OTHER
    numbers, booleans = distinct & {INT, UINT, FLOAT}, distinct & {BOOL, BOOL_OR_NULL}
    if TEXT in distinct or (numbers and booleans):
        return TEXT
    if booleans:
        return BOOL if distinct == {BOOL} else BOOL_OR_NULL
    if UINT in distinct and distinct <= {INT, UINT}:
        return UINT
    return INT if distinct == {INT} else FLOAT


def is_number(text: str) -> bool:
    """True when *text* has the form of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


class Column(NamedTuple):
    """The type of a column in one file."""

    name: str
    kind: str  #: one of the kinds in schema.py
    example: str | None = None  #: in a column of strings and numbers, the first string that is not a number


class InputWarnings:
    """Compares the columns of a dataset's files and collects other anomalies.

    Args:
        warn: Called with each warning; only with the first one of a category.
        may_lack_header: The first record of each file names its columns; if it is data, that row is lost.
    """

    def __init__(self, warn: Callable[[str], None], *, may_lack_header: bool = False) -> None:
        self._warn, self._may_lack_header = warn, may_lack_header
        self._first: tuple[str, Sequence[str]] | None = None
        self._kinds: dict[str, dict[str, tuple[str, str | None]]] = {}
        self._categories: set[str] = set()

    def add_file(self, path: str, warnings: Mapping[str, str]) -> None:
        """Report the warnings about a file, which are messages by category."""
        for category, message in warnings.items():
            if category not in self._categories:
                self._categories.add(category)
                self._warn(f"{path} {message}")

    def add_names(self, path: str, names: Sequence[str]) -> None:
        """Compare the names and order of the columns of one more file with those of the first file."""
        if self._first is None:
            self._first = path, names
        first_path, first = self._first
        if names == first:
            return
        extra = [name for name in names if name not in set(first)]
        missing = [name for name in first if name not in set(names)]
        if self._may_lack_header and len(extra) == len(names):
            data = first_path if _has_number(first) and not _has_number(names) else path
            columns = f"has the columns {shown_names(names)}, but {first_path}, the first file, has {shown_names(first)}"
            hint = f"if {data} lacks a header, its first row is used as one and lost: add a header to it"
            self.add_file(path, {"header": f"{columns}; {hint}"})
        elif sorted(names) == sorted(first):
            expected, actual = next((a, b) for a, b in zip(first, names, strict=True) if a != b)
            difference = f"has the columns of {first_path}, the first file, in a different order"
            example = f"{_shown_name(actual)} instead of {_shown_name(expected)}"
            effect = "run() gets them in the order of each file, and a text result has no names"
            self.add_file(path, {"order": f"{difference}: {example}; {effect}"})
        else:
            lacks = f"lacks {shown_names(missing)}" if missing else ""
            has = f"has the additional {shown_names(extra)}" if extra else ""
            difference = " and ".join(filter(None, (lacks, has))) or "has one of them more than once"
            message = f"has different columns than {first_path}, the first file: it {difference}"
            self.add_file(path, {"names": f"{message}; run() gets the columns of each file"})

    def add_columns(self, path: str, columns: Iterable[Column]) -> None:
        """Record the column types of one more file."""
        for column in columns:
            self._kinds.setdefault(column.name, {}).setdefault(column.kind, (path, column.example))

    def finish(self) -> None:
        """Warn about columns whose types differ between files, once every file is known."""
        differing = [(name, kinds) for name, kinds in self._kinds.items() if len(kinds) > 1]
        for name, kinds in differing[:_MOST_COLUMNS]:
            types = ", ".join(f"{_KIND_NAMES[kind]} in {path}{_shown(example)}" for kind, (path, example) in kinds.items())
            self._warn(f"column {name!r}: {types}; rows of different files have different types; set one with column_types")
        if len(differing) > _MOST_COLUMNS:
            self._warn(f"{len(differing) - _MOST_COLUMNS} more columns have different types in different files")


def _shown(example: str | None) -> str:
    if example is None:
        return ""
    return f" (the first that is not a number: {example[:_LONGEST_VALUE]!r})"


def _has_number(names: Sequence[str]) -> bool:
    return any(is_number(name) for name in names)


def shown_names(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """Return the first few *names* as one string.

    >>> print(shown_names(["a", "b"]), shown_names(list("abcdefg")))
    'a', 'b' 'a', 'b', 'c', 'd', 'e' and 2 more
    """
    shown = ", ".join(map(_shown_name, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _shown_name(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_VALUE else f"{name[: _LONGEST_VALUE - 1]}…")
