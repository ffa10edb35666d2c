"""What is odd about the files of a table, found while they are planned: no error, but it may spoil the result. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prefect_parallel_run.datasets.schema import BOOL, BOOL_OR_NULL, FLOAT, INT, NULL, OTHER, TEXT, UINT, is_number

_MOST_COLUMNS = 10  #: that are told one by one
_MOST_NAMES = 5  #: of columns that one message shows
_LONGEST_VALUE = 40  #: characters of a value or name that are shown
_WORDS = {
    INT: "whole numbers",
    UINT: "unsigned 64-bit integers",
    FLOAT: "numbers with fractions or gaps",
    BOOL: "truth values",
    BOOL_OR_NULL: "truth values with gaps",
    TEXT: "texts",
    NULL: "nothing",
    OTHER: "values of several kinds",
}


class Column(NamedTuple):
    """What is in a column of one file."""

    name: str
    kind: str  #: one of column_types
    example: str | None = None  #: of texts among which there are numbers, the first that is none


class InputWarnings:
    """Compares the columns of a dataset's files, and gathers what else is odd about them.

    Args:
        tell: Is given every doubt, in words; of those of one sort only the first.
        may_lack_header: The first record of each file names its columns; where it is data, a row is lost.
    """

    def __init__(self, tell: Callable[[str], None], *, may_lack_header: bool = False) -> None:
        self._tell, self._may_lack_header = tell, may_lack_header
        self._first: tuple[str, Sequence[str]] | None = None
        self._found: dict[str, dict[str, tuple[str, str | None]]] = {}
        self._sorts: set[str] = set()

    def of_file(self, path: str, found: Mapping[str, str]) -> None:
        """Take note of what is odd about a file, in words, by what sort of oddity it is."""
        for sort, words in found.items():
            if sort not in self._sorts:
                self._sorts.add(sort)
                self._tell(f"{path} {words}")

    def of_names(self, path: str, names: Sequence[str]) -> None:
        """Compare the names of the columns of one more file, and their order, with those of the first file."""
        if self._first is None:
            self._first = path, names
        first_path, first = self._first
        if names == first:
            return
        further = [name for name in names if name not in set(first)]
        missing = [name for name in first if name not in set(names)]
        if self._may_lack_header and len(further) == len(names):
            data = first_path if _has_number(first) and not _has_number(names) else path
            columns = f"has the columns {_shown_names(names)}, and {first_path}, the first file, has {_shown_names(first)}"
            hint = f"if {data} lacks a header, its first row is taken for one and lost: add a header to it"
            self.of_file(path, {"header": f"{columns}; {hint}"})
        elif sorted(names) == sorted(first):
            was, now = next((was, now) for was, now in zip(first, names, strict=True) if was != now)
            example = f"{_shown_name(now)} stands for {_shown_name(was)}"
            said = f"has the columns of {first_path}, the first file, in another order: {example}"
            self.of_file(path, {"order": f"{said}; run() gets them in the order of each file, and a text result has no names"})
        else:
            lacks = f"lacks {_shown_names(missing)}" if missing else ""
            has = f"has {_shown_names(further)} beside them" if further else ""
            what = " and ".join(filter(None, (lacks, has))) or "has one of them more than once"
            said = f"has other columns than {first_path}, the first file: it {what}; run() gets the columns of each file"
            self.of_file(path, {"names": said})

    def of_columns(self, path: str, columns: Iterable[Column]) -> None:
        """Take note of the columns of one more file."""
        for column in columns:
            self._found.setdefault(column.name, {}).setdefault(column.kind, (path, column.example))

    def end(self) -> None:
        """Tell of the columns that have another type in one file than in another, once every file is known."""
        differing = [(name, kinds) for name, kinds in self._found.items() if len(kinds) > 1]
        for name, kinds in differing[:_MOST_COLUMNS]:
            said = ", ".join(f"{_WORDS[kind]} in {path}{_shown(example)}" for kind, (path, example) in kinds.items())
            self._tell(f"column {name!r}: {said}; rows of different files have different types; column_types gives them one")
        if len(differing) > _MOST_COLUMNS:
            self._tell(f"{len(differing) - _MOST_COLUMNS} further columns have different types in different files")


def _shown(example: str | None) -> str:
    if example is None:
        return ""
    return f" (the first that is no number: {example[:_LONGEST_VALUE]!r})"


def _has_number(names: Sequence[str]) -> bool:
    return any(is_number(name) for name in names)


def _shown_names(names: Sequence[str]) -> str:
    """Return the first of *names*.

    >>> print(_shown_names(["a", "b"]), _shown_names(list("abcdefg")))
    'a', 'b' 'a', 'b', 'c', 'd', 'e' and 2 more
    """
    shown = ", ".join(map(_shown_name, names[:_MOST_NAMES]))
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def _shown_name(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_VALUE else f"{name[: _LONGEST_VALUE - 1]}…")
