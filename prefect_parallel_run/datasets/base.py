"""The base class of datasets: named paths that can be divided into mini-batches."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.paths import absolute_location

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

PathLike = str | os.PathLike[str]


def ignore_warning(_: str) -> None:
    """Discard a warning about the input."""


class Dataset(BaseModel):
    """Named paths; a value that Prefect can show, store as JSON, and read from a form."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[Literal["file", "tabular"]]  #: kind of item: a file, or a row of a table
    reads_once: ClassVar[bool] = False  #: each run keeps a copy of the items, since their source does not show its changes

    paths: list[str] = Field(description="Paths, folders or globs.")
    name: str | None = Field(default=None, description="Name of the input, as the script sees it.")
    allow_empty: bool = Field(default=False, description="Accept an input without items.")
    _input_columns: tuple[str, ...] = PrivateAttr(default=())  # values of each item in front of its row in the result

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules outside the standard library that a process needs to read the items."""
        return ()

    @property
    def origin(self) -> str:
        """Return where the items come from, for errors."""
        return ", ".join(self.paths)

    def copied_to(self, folder: Path, resolve: Callable[[str], str], earlier: Sequence[str] = ()) -> Self:  # noqa: ARG002  for a query
        """Return a dataset as a run reads it; one that is read once, from an existing *earlier* copy, or one in *folder*."""
        return self

    def copy_rows(self, check_cancelled: CheckCancelled = never_cancelled, keys: Sequence[str] = ()) -> None:
        """Write the copy of a dataset that is read once, unless it exists; *keys* are partition keys that it must have."""

    def listing(self, check_cancelled: CheckCancelled = never_cancelled) -> Listing:
        """Return the files that the paths expand to; *check_cancelled* is called periodically while they are listed."""
        return Listing(self.paths, check_cancelled)

    def frozen(self) -> Self:
        """Return a copy that names the version of a table which is the newest now; a dataset of files has none."""
        return self

    @abstractmethod
    def cuts(
        self, size: int, listing: Listing | None = None, warn: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield the mini-batches in order; each item belongs to exactly one.

        Args:
            size: Files per mini-batch, or approximate bytes of source for tables.
            listing: Listing of this dataset; by default a new one. It is exhausted at the end.
            warn: Called with a message about each anomaly that is not an error.

        Raises:
            InputError: A path is missing, or a file cannot be read in its format.
        """

    @abstractmethod
    def partition_cuts(
        self, keys: Sequence[str], store: Path, listing: Listing | None = None, warn: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield one mini-batch per existing combination of *keys*, in order of first appearance.

        Args:
            keys: Some of the dataset's partition keys, or of the columns of tables that are not partitioned.
            store: Folder for partitioned copies of tables.
            listing: As in ``cuts``.
            warn: As in ``cuts``.

        Raises:
            InputError: The dataset lacks one of *keys*; the message names both sets.
        """

    def as_named_input(self, name: str) -> Self:
        """Return a copy with a name made of letters, digits and underscores."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"name: expected letters, digits and '_', not starting with a digit, got {name!r}")
        return self.model_copy(update={"name": name})

    def with_input_columns(self, columns: Sequence[str]) -> Self:
        """Return a copy whose mini-batches have what a process needs for these ``append_row_input_columns``.

        Raises:
            InputError: The items lack one of *columns*; for a table, planning raises it.
        """
        copy = self.model_copy()
        copy._input_columns = tuple(columns)  # noqa: SLF001  of the same class
        return copy


def unknown_keys(name: str | None, wanted: Sequence[str], available: Sequence[str], what: str) -> InputError:
    """Return the error for partition keys that an input lacks."""
    return InputError(
        str(name), f"partition_keys: expected some of {list(available)}, {what} of this input, got {list(wanted)}"
    )


def given_paths(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Return paths as absolute strings; ``file://`` URLs become paths, other URLs stay."""
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not several:
        raise InputError("[]", "no path was passed")
    resolved = [absolute_location(path) for path in several]
    stores = {path.partition("://")[0] if is_remote(path) else "" for path in resolved}
    if len(stores) > 1:
        raise InputError(", ".join(resolved), "the paths of a dataset must be all local, or all in one kind of store")
    return resolved
