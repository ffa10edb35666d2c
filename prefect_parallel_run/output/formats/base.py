"""The interface of an output format at publication: it makes one file of the committed rows of all mini-batches."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefect_parallel_run.output.parts import Parts, StoredRows


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
    """Assembles committed rows into one result file; RowFormat in child/rows.py encodes them.

    Attributes:
        has_one_schema: The columns of all mini-batches must fit into one schema, which is checked during the run.
        is_reproducible: Equal rows give equal bytes with every version of the libraries.
    """

    has_one_schema = False
    is_reproducible = True

    @abstractmethod
    def write(self, places: Iterable[StoredRows], parts: Parts, sink: Sink, options: Mapping[str, Any]) -> int:
        """Write the rows at *places*, in order, and return their number.

        Args:
            places: Rows of all succeeded mini-batches.
            parts: The part files with the rows.
            sink: The result file.
            options: Options of pandas.DataFrame.to_csv that the rows were written with.

        Raises:
            RowsDifferError: The columns of two mini-batches differ; names column and mini-batches.
            OutputError: A part differs from the ledger.
        """
