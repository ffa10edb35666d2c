"""Reads rows from row groups (Parquet), record batches (Arrow) and stripes (ORC)."""

from abc import abstractmethod
from typing import Any, Dict, Optional, Sequence, Tuple

from .storage import open_file
from .table_formats import TableReader, groups_of
from .table_types import frame_of, with_extension_types, with_null_types


class RowGroupReader(TableReader):
    """Reads groups of rows by their numbers; keeps the last decoded groups."""

    def __init__(self) -> None:
        self._cached: Tuple[Any, Any] = (None, None)

    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Any:
        """Return the rows."""
        if piece is not None:
            work = {**work, "start": work["start"] + piece[0], "stop": work["start"] + piece[1]}
        # An index that pandas has saved is an ordinary column.
        return with_null_types(frame_of(self._rows(work)), work.get("nullable", ()))

    def holds(self, work: Dict[str, Any]) -> bool:
        """Return whether the groups of the mini-batch are the cached ones."""
        return bool(self._cached[0] == _key(work))

    def arrow(self, work: Dict[str, Any], frame: Any) -> Any:
        """Return the rows with the types of the file, and the partition keys."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

        table = self._rows(work)
        for key, _, _ in work.get("keys", ()):
            table = table.drop_columns([key]) if key in table.column_names else table
            table = table.append_column(key, pa.array(frame[key], from_pandas=True))
        return table

    @abstractmethod
    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return the groups *numbers* of the file as an Arrow table."""

    def _rows(self, work: Dict[str, Any]) -> Any:
        if not self.holds(work):
            self._cached = (None, None)  # release the old groups first: both together would double the memory
            self._cached = (_key(work), with_extension_types(self.decode(work, work[groups_of(work)[0]])))
        return self._cached[1].slice(work["start"], work["stop"] - work["start"])


def _key(work: Dict[str, Any]) -> Any:
    return work["path"], work["version"], tuple(work[groups_of(work)[0]])


class ParquetReader(RowGroupReader):
    """Reads Parquet files."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return row groups."""
        import pyarrow.parquet as pq  # noqa: PLC0415  scripts for files need no pyarrow

        unit = work.get("int96_unit")
        with open_file(work["path"]) as source, pq.ParquetFile(source, coerce_int96_timestamp_unit=unit) as file:
            return _without_dictionaries(file.read_row_groups(numbers))


class OrcReader(RowGroupReader):
    """Reads ORC files."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return stripes."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow
        from pyarrow import orc  # noqa: PLC0415  part of pyarrow

        with open_file(work["path"]) as source:
            file = orc.ORCFile(source)
            return pa.Table.from_batches([file.read_stripe(number) for number in numbers])


class ArrowReader(RowGroupReader):
    """Reads Arrow IPC files, and streams, whose record batches can only be read in order; keeps the last stream open."""

    def __init__(self) -> None:
        super().__init__()
        self._stream_key: Any = None
        self._source: Any = None
        self._stream: Any = None
        self._next = 0  #: number of the stream's next batch

    def __del__(self) -> None:  # owners of a reader need not know that it holds a file
        self._close()

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return record batches."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

        if work.get("is_stream"):
            return _without_dictionaries(self._from_stream(work, numbers))
        with open_file(work["path"]) as source, pa.ipc.open_file(source) as file:
            return pa.Table.from_batches([file.get_batch(number) for number in numbers], file.schema)

    def _from_stream(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return the batches *numbers* (ascending); an earlier one than the last reopens the stream."""
        import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

        key = work["path"], work["version"]
        if self._stream_key != key or self._next > numbers[0]:
            self._close()
            self._source = open_file(work["path"])
            self._stream = pa.ipc.open_stream(self._source)
            self._stream_key, self._next = key, 0
        batches = []
        while self._next <= numbers[-1]:
            batch = self._stream.read_next_batch()
            if self._next in numbers:
                batches.append(batch)
            self._next += 1
        return pa.Table.from_batches(batches)

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._stream_key, self._source, self._stream = None, None, None


def _without_dictionaries(table: Any) -> Any:
    """Return *table* with plain values: every group may have its own dictionary, so the categories would differ."""
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    return table
