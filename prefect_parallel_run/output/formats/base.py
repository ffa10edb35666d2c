"""The interface of an output format at publication: it makes a file of the committed rows of mini-batches."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prefect_parallel_run.output.parts import Parts, StoredRows


class Layout(NamedTuple):
    """What all parts of a result have in common."""

    header: bytes  #: line with the column names, or serialized schema; empty if the format or the rows have none
    mini_batch: int  #: source of the header line


class Sink(io.RawIOBase):
    """A file that computes the SHA-256 of what is written to it; *write* receives the bytes too."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        super().__init__()
        self._write, self._digest = write, hashlib.sha256()

    def writable(self) -> bool:  # noqa: D102  inherited
        return True

    def write(self, data: Any) -> int:  # noqa: D102  inherited
        self._write(data)
        self._digest.update(data)
        return len(data)

    @property
    def sha256(self) -> str:
        """Return the checksum of the bytes so far."""
        return self._digest.hexdigest()


class OutputFormat(ABC):
    """Assembles committed rows into a result file; RowFormat in child/rows.py encodes them.

    Attributes:
        has_one_schema: The columns of all mini-batches must fit into one schema, which is checked during the run.
        is_reproducible: Equal rows give equal bytes with every version of the libraries.
    """

    has_one_schema = False
    is_reproducible = True

    @abstractmethod
    def layout(self, places: Iterable[StoredRows], parts: Parts) -> Layout:
        """Return what all parts of a result with the rows at *places* have in common; raises the errors of ``write``."""

    @abstractmethod
    def write(
        self, places: Iterable[StoredRows], parts: Parts, sink: Sink, options: Mapping[str, Any], layout: Layout | None = None
    ) -> int:
        """Write the rows at *places*, in order, and return their number.

        Args:
            places: Rows of succeeded mini-batches.
            parts: The part files with the rows.
            sink: The result file.
            options: Options of pandas.DataFrame.to_csv that the rows were written with.
            layout: Layout of a result of which the file is a part; None if *places* are all rows of the result.

        Raises:
            RowsDifferError: The columns of two mini-batches differ; names column and mini-batches.
            OutputError: A part differs from the ledger.
        """
