"""What every dataset is: paths with a name, that can be cut into mini-batches."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.paths import absolute_path
from prefect_parallel_run.storage.listing import Listing

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

PathLike = str | os.PathLike[str]


def ignore_warning(_: str) -> None:
    """Let what is odd about files go untold."""


class Dataset(BaseModel):
    """Paths with a name; a value that Prefect can show, keep as JSON, and take from a form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: list[str] = Field(description="Paths, folders or globs.")
    name: str | None = Field(default=None, description="Name of the input, as the script sees it.")
    allow_empty: bool = Field(default=False, description="An input without items is no error.")

    @property
    @abstractmethod
    def kind(self) -> Literal["file", "tabular"]:
        """Return what an item is: a file, or a row of a table."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Return what a process that reads the items will import beside the standard library."""
        return ()

    def listing(self, check_cancelled: Callable[[], None] = lambda: None) -> Listing:
        """Return the files that the paths stand for; *check_cancelled* is called now and then while they are listed."""
        return Listing(self.paths, check_cancelled, of_table=self.kind == "tabular")

    @abstractmethod
    def cuts(
        self, size: int, listing: Listing | None = None, tell: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield the mini-batches, in order, each item in exactly one.

        Args:
            size: Files per mini-batch, or approximate bytes of source for tables.
            listing: Of this dataset; by default a new one. When all is yielded it has listed every file.
            tell: Is given what is odd about the files and no error, in words.

        Raises:
            InputError: A path is missing, or a file cannot be read as what it should be.
        """

    @abstractmethod
    def partition_cuts(
        self, keys: Sequence[str], store: Path, listing: Listing | None = None, tell: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield one mini-batch per existing combination of *keys*, in the order in which they are met.

        Args:
            keys: Some of the dataset's partition keys, or of the columns of tables that are not partitioned.
            store: Folder for tables that have to be written anew, partitioned.
            listing: As in ``cuts``.
            tell: The same.

        Raises:
            InputError: A key is none of this dataset's; names both sets.
        """

    def as_named_input(self, name: str) -> Self:
        """Return the same dataset under a name; letters, digits and underscores."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"name: {name!r} is not an input's name; use letters, digits and '_', no digit first")
        return self.model_copy(update={"name": name})


def unknown_keys(name: str | None, wanted: Sequence[str], there: Sequence[str], what: str) -> InputError:
    """Return the error for partition keys that an input does not have."""
    return InputError(str(name), f"partition_keys are {list(wanted)}, {what} of this input {list(there)}; pass some of these")


def given_paths(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Return paths as absolute texts; ``file://`` URLs become paths, other URLs stay."""
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not several:
        raise InputError("[]", "no path was given")
    found = [absolute(path) for path in several]
    stores = {path.partition("://")[0] if is_remote(path) else "" for path in found}
    if len(stores) > 1:
        raise InputError(", ".join(found), "the paths of a dataset are all of this machine, or all of one kind of store")
    return found


def absolute(path: PathLike) -> str:
    """Return a path as an absolute text; a ``file://`` URL becomes a path, another URL stays.

    Raises:
        InputError: A URL holds a password, is a chain of several, or names nothing.
    """
    text = os.fspath(path)
    if text.startswith(("file://", "local://")):
        text = unquote(text.partition("://")[2])
    if not is_remote(text):
        return absolute_path(text) if text else ""
    if urlsplit(text).password is not None:
        raise InputError(
            f"{text.partition('://')[0]}://…", "holds a password, which would be written down; set it in the environment"
        )
    if "::" in text:
        raise InputError(text, "is a chain of URLs; pass a single one")
    if not text.partition("://")[2].strip("/"):
        raise InputError(text, "names nothing in the store")
    return text
