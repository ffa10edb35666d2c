"""Reads rows from row groups (Parquet), record batches (Arrow) and stripes (ORC); only the columns that the dataset keeps."""

import json
import os
from abc import abstractmethod
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .arrow_values import frame_of
from .storage import is_remote, open_file, request
from .table_formats import TableReader, groups_of
from .text import BadRecord

_LARGEST_AHEAD = 256 << 20  #: bytes of decoded groups; run() may still use them while the next ones are decoded


class RowGroupReader(TableReader):
    """Reads groups of rows by their numbers; keeps the last decoded groups, and the last file open: a footer may be large."""

    def __init__(self) -> None:
        self._cached: Tuple[Any, Any] = (None, None)
        self._open_key: Any = None
        self._source: Any = None
        self._file: Any = None

    def __del__(self) -> None:  # owners of a reader need not know that it holds a file
        self._close()

    def read(self, work: Dict[str, Any], piece: Optional[Sequence[int]] = None) -> Any:
        """Return the rows."""
        if piece is not None:
            work = {**work, "start": work["start"] + piece[0], "stop": work["start"] + piece[1]}
        rows = self._rows(work)
        try:
            frame = frame_of(rows)  # an index that pandas has saved is an ordinary column
        except ValueError as error:
            dates = [field.name for field in rows.schema if "date" in str(field.type)]
            if not dates or "out of range" not in str(error):
                raise
            expected = "expected a date in the years 1 to 9999, the only ones that Python supports"
            advice = "store the column as text (in a query, cast it to text), or exclude it with drop_columns"
            columns = " or ".join(map(repr, dates))
            raise BadRecord(f"{work['path']}, column {columns}: {error}; {expected}; {advice}") from None
        return with_null_types(frame, work.get("nullable", ()))

    def prepare(self, work: Dict[str, Any]) -> None:
        """Decode the groups of the mini-batch, unless the last ones were too large to have both in memory."""
        last = self._cached[1]
        if last is None or last.get_total_buffer_size() <= _LARGEST_AHEAD:
            self._rows(work)

    def holds(self, work: Dict[str, Any]) -> bool:
        """Return whether the groups of the mini-batch are the cached ones."""
        return bool(self._cached[0] == _key(work))

    def arrow(self, work: Dict[str, Any], frame: Any) -> Any:
        """Return the rows with the types of the file, and the partition keys."""
        table = self._rows(work)
        for key, _, _ in work.get("keys", ()):
            table = table.drop_columns([key]) if key in table.column_names else table
            table = table.append_column(key, pa.array(frame[key], from_pandas=True))
        return table

    @abstractmethod
    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return the groups *numbers* of the file as an Arrow table; it may have columns that the dataset does not keep."""

    def _rows(self, work: Dict[str, Any]) -> Any:
        if not self.holds(work):
            self._cached = (None, None)  # release the old groups first: both together would double the memory
            try:
                table = _kept(self.decode(work, work[groups_of(work)[0]]), work)
            except BaseException:  # another attempt opens the file again: a store may have closed the connection
                self._close()
                raise
            self._cached = (_key(work), with_extension_types(table))
        return self._cached[1].slice(work["start"], work["stop"] - work["start"])

    def _open(self, work: Dict[str, Any], open_reader: Callable[[Any], Any]) -> Any:
        """Return a reader of the work's file, the last one if it is the same; *open_reader* creates one for an open file."""
        key = _source_key(work)
        if self._open_key != key:
            self._close()
            path = work["path"]
            self._source = open_file(path) if is_remote(path) else pa.OSFile(os.fsencode(path))  # Arrow reads this one itself
            self._file = open_reader(self._source)
            self._open_key = key
        return self._file

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._open_key, self._source, self._file = None, None, None


def _key(work: Dict[str, Any]) -> Any:
    return _source_key(work), tuple(work[groups_of(work)[0]])


def _source_key(work: Dict[str, Any]) -> Any:
    return (work["path"], work["version"], *map(work.get, ("keep_columns", "drop_columns", "columns", "row")))


def kept_indices(names: Sequence[str], work: Mapping[str, Any]) -> Optional[List[int]]:
    """Return the indices of the columns that a work keeps of *names*, the columns of a file; None for all.

    >>> kept_indices(["a", "b", "b"], {"keep_columns": ["b"]}), kept_indices(["a", "b"], {"drop_columns": ["b"]})
    ([1, 2], [0])
    """
    if "keep_columns" in work:
        keep = set(work["keep_columns"])
        return [index for index, name in enumerate(names) if name in keep]
    if "drop_columns" in work:
        drop = set(work["drop_columns"])
        return [index for index, name in enumerate(names) if name not in drop]
    return None


def _kept_names(schema: Any, work: Mapping[str, Any]) -> Optional[List[str]]:
    indices = kept_indices(schema.names, work)
    return None if indices is None else [schema.names[index] for index in indices]


def _kept(table: Any, work: Dict[str, Any]) -> Any:
    """Return *table* without the columns that the dataset does not keep: some formats read more than asked for."""
    indices = kept_indices(table.column_names, work)
    return table if indices is None else table.select(indices)


class ParquetReader(RowGroupReader):
    """Reads Parquet files."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return row groups."""
        unit = work.get("int96_unit")
        file = self._open(work, lambda source: pq.ParquetFile(source, coerce_int96_timestamp_unit=unit))
        names = _kept_names(file.schema_arrow, work)
        # pyarrow also selects columns named "NAME.something": in Parquet they look like fields inside NAME.
        table = _without_dictionaries(file.read_row_groups(numbers, columns=names))
        following = numbers[-1] + 1
        if names is None and following < file.num_row_groups:
            with suppress(pa.ArrowException, OSError):  # of advice; the group is read without it
                request(work["path"], *_range_of(file.metadata.row_group(following)))  # probably of the next mini-batch
        return table


def _range_of(row_group: Any) -> Tuple[int, int]:
    """Return start and stop of the bytes of a row group of a Parquet file, about."""
    if not row_group.num_columns:
        return 0, 0
    first, last = row_group.column(0), row_group.column(row_group.num_columns - 1)
    start = first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset
    return start, last.data_page_offset + last.total_compressed_size


class OrcReader(RowGroupReader):
    """Reads ORC files."""

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return stripes."""
        from pyarrow import orc  # noqa: PLC0415  not every build of pyarrow has it

        file = self._open(work, orc.ORCFile)
        indices = kept_indices(file.schema.names, work)
        return pa.Table.from_batches([read_stripe(file, number, indices) for number in numbers])


def read_stripe(file: Any, number: int, indices: Optional[Sequence[int]]) -> Any:
    """Return the columns at *indices* (None: all) of a stripe of an ORCFile."""
    if indices is None:
        return file.read_stripe(number)
    columns = [file.schema.names[index] for index in indices]
    batch = file.read_stripe(number, columns=columns)
    if columns and batch.schema.names == columns:
        return batch
    return file.read_stripe(number).select(indices)  # a repeated name, or "a.b" beside a field b of a, selects others


class ArrowReader(RowGroupReader):
    """Reads Arrow IPC files, and streams, whose record batches can only be read in order."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0  #: number of the next batch of the open stream

    def decode(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return record batches."""
        if work.get("is_stream"):
            return _without_dictionaries(self._from_stream(work, numbers))
        file = self._open(work, lambda source: _open_ipc(pa.ipc.open_file, source, work))
        return pa.Table.from_batches([file.get_batch(number) for number in numbers], file.schema)

    def _from_stream(self, work: Dict[str, Any], numbers: Sequence[int]) -> Any:
        """Return the batches *numbers* (ascending); an earlier one than the last reopens the stream."""
        if self._next > numbers[0]:
            self._close()
        if self._open_key != _source_key(work):
            self._next = 0
        stream = self._open(work, lambda source: _open_ipc(pa.ipc.open_stream, source, work))
        batches = []
        while self._next <= numbers[-1]:
            batch = stream.read_next_batch()
            if self._next in numbers:
                batches.append(batch)
            self._next += 1
        return pa.Table.from_batches(batches)


def _open_ipc(open_reader: Callable[..., Any], source: Any, work: Dict[str, Any]) -> Any:
    """Return a reader of an IPC file or stream that decodes only the columns that the dataset keeps; without any, one."""
    reader = open_reader(source)
    names = reader.schema.names
    indices = kept_indices(names, work)
    if indices is None:
        return reader
    source.seek(0)
    included = indices or [0][: len(names)]  # an empty list would mean all
    return open_reader(source, options=pa.ipc.IpcReadOptions(included_fields=included))


def _without_dictionaries(table: Any) -> Any:
    """Return *table* with plain values: every group may have its own dictionary, so the categories would differ."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    return table


def with_null_types(frame: Any, indexes: Sequence[int]) -> Any:
    """Return *frame*, made by Arrow, with the types that a null causes in these columns: the file has one somewhere."""
    for index in indexes:
        column = frame.iloc[:, index]
        if column.dtype.kind in "iu":
            frame.isetitem(index, column.astype("float64"))
        elif column.dtype.kind == "b":
            frame.isetitem(index, column.astype(object))
    return frame


def extension_types(schema: Any) -> Dict[str, str]:
    """Return the columns that pandas wrote from an extension type (Int64, boolean, string), with that type's name.

    Types that this version of pandas cannot create from Arrow are omitted.
    """
    types: Dict[str, str] = {}
    for column in _pandas_metadata(schema).get("columns", ()):
        name, type_name = column.get("field_name", column.get("name")), column.get("numpy_type")
        try:
            dtype = pd.api.types.pandas_dtype(type_name)
        except (TypeError, ValueError, NotImplementedError):  # a type of another version or of a library that is not imported
            continue
        if isinstance(dtype, pd.api.extensions.ExtensionDtype) and hasattr(dtype, "__from_arrow__") and name in schema.names:
            types[name] = type_name
    return types


def with_extension_types(table: Any) -> Any:
    """Return *table* with metadata from which Arrow restores only pandas' extension types, not an index."""
    types = extension_types(table.schema)
    columns = [
        {"name": name, "field_name": name, "pandas_type": "", "numpy_type": kind, "metadata": None}
        for name, kind in types.items()
    ]
    pandas = {"index_columns": [], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()} if types else None)


def _pandas_metadata(schema: Any) -> Dict[str, Any]:
    """Return pandas' metadata in a file; an empty dict when it is missing or damaged."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}
