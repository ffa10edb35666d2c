"""The planning half of the table formats, which child/table_formats.py lists: divides files into pieces, one per mini-batch."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.child.table_formats import TABLE_FORMATS
from prefect_parallel_run.datasets.partitions import KeyValue, folder_keys, keyed_files
from prefect_parallel_run.datasets.schema import Column
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.listing import Listing

if TYPE_CHECKING:
    from prefect_parallel_run.datasets.tabular import TabularDataset


class Piece(NamedTuple):
    """The rows of one mini-batch."""

    rows: int
    size: int  #: bytes of source
    work: dict[str, Any]  #: the fields of its work that differ between the pieces of a file


class FilePlan(NamedTuple):
    """A file divided into pieces."""

    work: dict[str, Any]  #: the fields of a work that all its mini-batches share: dialect, columns, types
    pieces: Iterator[Piece]  #: in order, each with at least one row
    keys: list[KeyValue] | None = None  #: partition keys in the file's metadata
    columns: Sequence[Column] = ()  #: columns whose types were inferred
    names: Sequence[str] | None = None  #: column names in order, numbers without a header; None when unknown
    warnings: Mapping[str, str] = {}  #: messages about the file, by category


class TablePlanner(ABC):
    """Divides the files of one dataset, whose fields are the options of its format."""

    key_origin = "the folder keys"  #: for users: what ``keys`` returns

    def __init__(self, dataset: TabularDataset) -> None:
        self._dataset = dataset

    def newest(self) -> dict[str, int]:
        """Return the dataset's fields that select the newest version of the table; empty if the format has no versions."""
        return {}

    def listing(self, check_cancelled: CheckCancelled) -> Listing:
        """Return the files of the dataset."""
        return Listing(self._dataset.paths, check_cancelled, of_table=True)

    def keys(self, listing: Listing) -> list[str]:
        """Return the partition keys that the files of *listing* are sorted by."""
        return folder_keys(listing)

    def files(self, listing: Listing) -> Iterator[tuple[ListedFile, list[KeyValue]]]:
        """Yield every file of *listing* with its partition keys."""
        return keyed_files(listing)

    @abstractmethod
    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file* into pieces of about *size* bytes; raises when it cannot be read, here or while iterating over them."""


def create_planner(dataset: TabularDataset) -> TablePlanner:
    """Return the planner of the dataset's format."""
    module, _, planner = TABLE_FORMATS[dataset.format].planner.partition(".")
    created: TablePlanner = getattr(importlib.import_module(f"{__name__}.{module}"), planner)(dataset)
    return created
