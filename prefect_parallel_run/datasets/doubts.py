"""What is odd about the files of a table, found while they are planned: no error, but it may spoil the result. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prefect_parallel_run.datasets.column_types import BOOL, BOOL_OR_NULL, FLOAT, INT, NULL, OTHER, TEXT, UINT

_MOST_COLUMNS = 10  #: that are told one by one
_LONGEST_VALUE = 40  #: characters of a value that are shown
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


class Doubts:
    """Compares the columns of a dataset's files, and gathers what else is odd about them.

    Args:
        tell: Is given every doubt, in words; of those of one sort only the first.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._found: dict[str, dict[str, tuple[str, str | None]]] = {}
        self._sorts: set[str] = set()

    def of_file(self, path: str, found: Mapping[str, str]) -> None:
        """Take note of what is odd about a file, in words, by what sort of oddity it is."""
        for sort, words in found.items():
            if sort not in self._sorts:
                self._sorts.add(sort)
                self._tell(f"{path} {words}")

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
