"""Lakehouse tables: Parquet files that the metadata of a table lists, with the columns that only this metadata has.

The modules of the formats read the metadata, in the process that plans; children read the Parquet files.
"""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from glob import has_magic
from itertools import groupby
from posixpath import commonprefix
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.formats.row_groups import Parquet, kept_schema
from prefect_parallel_run.datasets.partitions import IN_ROWS, KeyValue, key_value
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.listing import Listing, file_at
from prefect_parallel_run.storage.objects import find_object, list_store

if TYPE_CHECKING:
    from prefect_parallel_run._threads import CheckCancelled
    from prefect_parallel_run.datasets.formats import FilePlan

_FAMILIES = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_date),
    *(pa.types.is_time, pa.types.is_nested),
    lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind),
)
COPY = "write its rows to a new table (CREATE TABLE … AS SELECT) and read that one"  #: for users


class TableListing(Listing):
    """The files that the metadata of a table lists; subclasses read it when they are created, and may raise InputError."""

    schema: pa.Schema  #: columns of the table
    keys: Sequence[str]  #: its partition columns
    values: Mapping[str, Mapping[str, Any]]  #: values of the partition columns by path of a file, sorted by path
    defaults: Mapping[str, Any] = {}  #: values of other columns that a file lacks, if not null
    version: str  #: for users: the version of the table
    removal: str  #: for users: what removes files of a version, and what to do

    def __init__(self, name: str, check_cancelled: CheckCancelled) -> None:
        super().__init__([name], check_cancelled, of_table=True)

    @abstractmethod
    def stored(self, path: str, schema: pa.Schema, names: Sequence[str]) -> dict[str, pa.Field]:
        """Return those of the table's columns *names* that a file with *schema* has."""

    def _files(self) -> Generator[ListedFile, None, None]:
        """Yield the files, each as the file system or the store has it now: children check size and version."""
        objects = {file.path: file for file in _objects(filter(is_remote, self.values))}
        for path in self.values:
            try:
                yield objects[path] if is_remote(path) else file_at(path)
            except (InputError, KeyError) as error:
                message = f"is a file of {self.version}, but cannot be found"
                raise InputError(path, f"{message}: {self.removal}") from error


def _objects(urls: Iterable[str]) -> Iterator[ListedFile]:
    """Yield the objects in the common folder of sorted *urls*, for each bucket."""
    for _, group in groupby(urls, lambda url: url.split("/", 3)[:3]):
        folder = commonprefix(names := list(group)).rpartition("/")[0]
        yield from filter(None, map(find_object, names)) if has_magic(folder) else list_store(f"{folder}/")


class Lakehouse(Parquet):
    """Divides the Parquet files of a lakehouse table."""

    key_origin = "the partition columns"
    _listing: TableListing

    def keys(self, listing: Listing) -> list[str]:
        """Return the partition columns."""
        return list(cast("TableListing", listing).keys)

    def files(self, listing: Listing) -> Iterator[tuple[ListedFile, list[KeyValue]]]:
        """Yield every file with its values of the partition columns; names of folders are not binding."""
        self._listing = cast("TableListing", listing)
        for file in listing:
            values = self._listing.values[file.path]
            if not file.size:  # other tables may have empty files
                raise InputError(file.path, "is empty, but the metadata of the table lists it; restore it")
            yield file, [key_value(key, values[key])._replace(type=IN_ROWS) for key in self._listing.keys]

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; values that its metadata has for partition keys do not count."""
        return super().plan(file, size)._replace(keys=None)

    def columns(self, file: ListedFile, schema: pa.Schema) -> tuple[list[str], pa.Schema, dict[str, Any]]:
        """Return what Parquet.columns does; those that the file lacks are strings, whose values do not depend on its nulls."""
        values, whole = {**self._listing.defaults, **self._listing.values[file.path]}, self._listing.schema
        kept = kept_schema(whole, self._dataset.selection.fields())
        stored = self._listing.stored(file.path, schema, kept.names)
        others = [field for field in kept if field.name not in stored or stored[field.name].type != field.type]
        for field in others:
            if field.name in stored:
                _check_column(file.path, field, stored[field.name].type)
        names = {name: stored[name].name if name in stored else None for name in kept.names}
        fields = [
            field.with_name(names[field.name]) if field.name in stored else field.with_type(pa.string()) for field in kept
        ]
        if schema.names == kept.names == [*names.values()] and not others:
            return whole.names, pa.schema(fields), {}
        row = pa.Table.from_pylist([values], pa.schema(others))  # null for a column that the file lacks
        return whole.names, pa.schema(fields), {"columns": names, "row": _encoded(row)}


def _check_column(path: str, field: pa.Field, kind: pa.DataType) -> None:
    """Raise InputError unless a file's values of type *kind* can be cast to the type of the table's column."""
    try:
        can_cast = _family(kind) == _family(field.type)
        pa.array([], kind).cast(field.type)
    except pa.ArrowException:
        can_cast = False
    if not can_cast:
        message = f"has {kind} in column {field.name!r}; expected the table's type {field.type}"
        raise InputError(path, f"{message}: drop the column with drop_columns, or {COPY}")


def _family(kind: pa.DataType) -> Any:
    """Return what two types have in common if values of one may be cast to the other."""
    if isinstance(kind, pa.BaseExtensionType):
        return _family(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    return next((is_member for is_member in _FAMILIES if is_member(kind)), kind)


def _encoded(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()
