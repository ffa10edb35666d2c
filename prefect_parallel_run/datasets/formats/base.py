"""The protocol of table formats: divide one file into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prefect_parallel_run.datasets.input_warnings import Column
from prefect_parallel_run.datasets.partitions import KeyValue
from prefect_parallel_run.storage.folders import ListedFile


class Piece(NamedTuple):
    """The rows of one mini-batch."""

    rows: int
    size: int  #: bytes of source
    where: dict[str, Any]  #: fields of its work that differ between the pieces of a file


class CutFile(NamedTuple):
    """A file divided into pieces."""

    about: dict[str, Any]  #: fields of the work of all its mini-batches: dialect, columns, types
    pieces: Iterator[Piece]  #: in order, each with at least one row
    keys: list[KeyValue] | None = None  #: partition keys in the file's metadata
    columns: Sequence[Column] = ()  #: columns whose types were inferred
    names: Sequence[str] | None = None  #: column names in order, numbers without a header; None when unknown
    warnings: Mapping[str, str] = {}  #: messages about the file, by category


class Format(Protocol):
    """A file format of tables; a value."""

    def cut(self, file: ListedFile, size: int) -> CutFile:
        """Divide *file* into pieces of about *size* bytes; raises when it cannot be read, here or while iterating over them."""
