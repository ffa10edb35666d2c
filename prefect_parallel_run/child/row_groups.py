"""Reads rows from row groups (Parquet), record batches (Arrow) and stripes (ORC); keeps the last decoded ones."""

from typing import Any, Dict, Optional, Sequence, Tuple

from .arrow_stream import ArrowStreams
from .nested import frame_of
from .storage import open_file
from .table_types import with_extension_types, with_null_types

GROUPS = {"parquet": "row_groups", "arrow": "batches", "orc": "stripes"}  #: key of their numbers, by kind


class RowGroups:
    """Reads rows; keeps the last decoded groups, because the next mini-batch probably needs them too."""

    def __init__(self) -> None:
        self._cached: Tuple[Any, Any] = (None, None)
        self._streams = ArrowStreams()

    def holds(self, work: Dict[str, Any]) -> bool:
        """True when the groups of the mini-batch are the cached ones."""
        return work["kind"] in GROUPS and self._cached[0] == _key(work)

    def frame(self, work: Dict[str, Any]) -> Any:
        """Return the rows of a mini-batch."""
        # An index that pandas has saved is an ordinary column.
        return with_null_types(frame_of(self.rows(work)), work.get("nullable", ()))

    def rows(self, work: Dict[str, Any]) -> Any:
        """Return the rows of a mini-batch as an Arrow table, with the types of the file."""
        if not self.holds(work):
            self._cached = (None, None)  # release the old groups first: both together would double the memory
            self._cached = (_key(work), with_extension_types(self._decoded(work, work[GROUPS[work["kind"]]])))
        return self._cached[1].slice(work["start"], work["stop"] - work["start"])

    def _decoded(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        if work.get("is_stream"):
            return _without_dictionaries(self._streams.table(work["path"], work["version"], numbers))
        with open_file(work["path"]) as source:
            if work["kind"] == "parquet":
                return _parquet(source, numbers, work.get("int96_unit"))
            return _READERS[work["kind"]](source, numbers)


def _key(work: Dict[str, Any]) -> Any:
    return work["path"], work["version"], tuple(work[GROUPS[work["kind"]]])


def _without_dictionaries(table: Any) -> Any:
    """Return *table* with plain values: every group may have its own dictionary, so the categories would differ."""
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    return table


def _parquet(source: Any, numbers: Sequence[int], int96_unit: Optional[str]) -> Any:
    import pyarrow.parquet as pq  # noqa: PLC0415  scripts for files need no pyarrow

    with pq.ParquetFile(source, coerce_int96_timestamp_unit=int96_unit) as file:
        return _without_dictionaries(file.read_row_groups(numbers))


def _arrow(source: Any, numbers: Sequence[int]) -> Any:
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow

    with pa.ipc.open_file(source) as file:
        return pa.Table.from_batches([file.get_batch(number) for number in numbers], file.schema)


def _orc(source: Any, numbers: Sequence[int]) -> Any:
    import pyarrow as pa  # noqa: PLC0415  scripts for files need no pyarrow
    from pyarrow import orc  # noqa: PLC0415  part of pyarrow

    file = orc.ORCFile(source)
    return pa.Table.from_batches([file.read_stripe(number) for number in numbers])


_READERS = {"arrow": _arrow, "orc": _orc}
