"""Reads Arrow IPC streams, whose record batches can only be read in order; keeps the last stream open."""

from typing import Any, Sequence

from .storage import open_file


class ArrowStreams:
    """Reads record batches by number; reading an earlier one reopens the stream."""

    def __init__(self) -> None:
        self._key: Any = None
        self._file: Any = None
        self._reader: Any = None
        self._next = 0  #: number of the next batch

    def __del__(self) -> None:  # owners of a reader need not know that it holds a file
        self._close()

    def table(self, path: str, version: Any, numbers: Sequence[int]) -> Any:
        """Return the batches *numbers* (ascending) as a table."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

        if self._key != (path, version) or self._next > numbers[0]:
            self._close()
            self._file = open_file(path)
            self._reader = pa.ipc.open_stream(self._file)
            self._key, self._next = (path, version), 0
        batches = []
        while self._next <= numbers[-1]:
            batch = self._reader.read_next_batch()
            if self._next in numbers:
                batches.append(batch)
            self._next += 1
        return pa.Table.from_batches(batches)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._key, self._file, self._reader = None, None, None
