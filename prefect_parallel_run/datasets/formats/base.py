"""What every format of table files can do: cut one file into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prefect_parallel_run.datasets.input_warnings import Column
from prefect_parallel_run.datasets.partitions import KeyValue
from prefect_parallel_run.storage.folders import Listed


class Piece(NamedTuple):
    """The rows of one mini-batch."""

    rows: int
    size: int  #: bytes of source
    where: dict[str, Any]  #: what its work says beside what all pieces of the file share


class CutFile(NamedTuple):
    """A file, cut."""

    about: dict[str, Any]  #: what the work of all its mini-batches says: dialect, columns, types
    pieces: Iterator[Piece]  #: in order, none without rows
    keys: list[KeyValue] | None = None  #: partition keys as the file itself notes them
    columns: Sequence[Column] = ()  #: as far as they were looked at for their types
    names: Sequence[str] | None = None  #: of its columns in order, numbers where it has none; None when they are not known
    doubts: Mapping[str, str] = {}  #: what is odd about the file, in words, by what sort of oddity it is


class Format(Protocol):
    """One way to write the rows of a table; a value."""

    def cut(self, file: Listed, size: int) -> CutFile:
        """Return *file* cut into pieces of about *size* bytes. What cannot be read raises, now or on the way through them."""
