"""Which columns of a table reach run(): all, those that a dataset keeps, or all but those that it drops. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_parallel_run.child.input_columns import ROW_VALUES
from prefect_parallel_run.child.row_groups import kept_indices
from prefect_parallel_run.config.base import similar
from prefect_parallel_run.datasets.schema import shown_names
from prefect_parallel_run.errors import InputError

_MOST_NAMES = 50  #: column names in an error


@dataclass(frozen=True, slots=True)
class ColumnSelection:
    """The columns that a dataset keeps or drops, at most one of the two; columns always have the order of their file."""

    keep: Sequence[str] | None = None
    drop: Sequence[str] | None = None

    @property
    def field(self) -> str:
        """Return the name of the dataset's field."""
        return "drop_columns" if self.keep is None else "keep_columns"

    def fields(self) -> dict[str, list[str]]:
        """Return the fields of a mini-batch's work; none if all columns are kept."""
        names = self.keep or self.drop
        return {self.field: list(names)} if names else {}

    def kept(self, names: Sequence[str]) -> list[str]:
        """Return those of *names* that are kept, in their order."""
        indices = kept_indices(names, self.fields())
        return list(names) if indices is None else [names[index] for index in indices]

    def keeping(self, columns: Sequence[str]) -> ColumnSelection:
        """Return the selection of *columns* among those kept so far; raises ValueError for others."""
        if not columns:
            raise ValueError("keep_columns: expected at least one column, got []")
        self._check_kept("keep_columns", columns)
        return ColumnSelection(keep=columns)

    def dropping(self, columns: Sequence[str]) -> ColumnSelection:
        """Return the selection without *columns*, which must be kept so far; raises ValueError for others."""
        self._check_kept("drop_columns", columns)
        if self.keep is None:
            return ColumnSelection(drop=[*(self.drop or ()), *columns])
        rest = [name for name in self.keep if name not in columns]
        if not rest:
            raise ValueError(f"drop_columns: expected to keep at least one of {list(self.keep)}, got all of them")
        return ColumnSelection(keep=rest)

    def check_names(self, path: str, names: Sequence[str]) -> None:
        """Raise InputError unless the table at *path*, with the columns *names*, has those of the selection, and keeps one."""
        check_has_columns(path, names, self.keep or self.drop or (), self.field)
        if self.drop and not self.kept(names):
            raise InputError(path, f"has no columns except those in drop_columns: {shown_names(names, _MOST_NAMES)}")

    def check_keys(self, input_name: str | None, keys: Sequence[str]) -> None:
        """Raise InputError for a partition key that is not kept."""
        left_out = [key for key in keys if key not in self.kept(keys)]
        if left_out:
            reason = f"expected columns that reach run(), got {left_out[0]!r}, which {self.field} leaves out; keep it too"
            raise InputError(str(input_name), f"partition_keys: {reason}")

    def _check_kept(self, method: str, columns: Sequence[str]) -> None:
        left_out = [name for name in columns if name not in self.kept(columns)]
        if left_out:
            reason = f"got {left_out[0]!r}, which an earlier {self.field} removed"
            raise ValueError(f"{method}: expected columns that earlier calls kept, {reason}")


def check_has_columns(path: str, names: Sequence[str], wanted: Sequence[str], field: str) -> None:
    """Raise InputError unless the table at *path*, with the columns *names*, has those *wanted*, which *field* names."""
    there = set(names)
    for name in wanted:
        if name not in there:
            columns = f"its columns are {shown_names(names, _MOST_NAMES)}" if names else "it has no columns"
            hint = similar(name, names)
            raise InputError(path, f"lacks the column {name!r}, which {field} names{hint}; {columns}")


def check_input_columns(path: str, names: Sequence[str], wanted: Sequence[str], located: Sequence[str] = ROW_VALUES) -> None:
    """Raise InputError unless each of *wanted* means one value of a row of the table at *path*, whose run() gets *names*.

    ``file`` and ``row`` are the row's location, of which a table has the values *located*.
    """
    field = "append_row_input_columns"
    check_has_columns(path, list(dict.fromkeys([*names, *located])), wanted, field)
    for name in wanted:
        meanings = list(names).count(name) + (name in ROW_VALUES)
        if meanings > 1:
            other = f"and {name!r} in {field} is the location of a row" if name in ROW_VALUES else "which is not unique"
            raise InputError(
                path, f"has a column {name!r}, {other}; drop or rename the column, or remove {name!r} from {field}"
            )
