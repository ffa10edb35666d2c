"""Iceberg tables: the Parquet files of one snapshot, whose columns are found by their field ids.

The package pyiceberg reads the catalog and the metadata, in the process that plans; children read the Parquet files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.formats.lakehouse import COPY, Lakehouse, TableListing
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import absolute_path

if TYPE_CHECKING:
    from prefect_parallel_run._threads import CheckCancelled
    from prefect_parallel_run.datasets.tabular import TabularDataset
    from prefect_parallel_run.storage.listing import Listing

_FIELD_ID = b"PARQUET:field_id"  #: in the metadata of a field
_NEVER_WRITTEN = 0  #: in place of the id of a snapshot
_REWRITE = "CALL … .system.rewrite_data_files(table => …, options => map('delete-file-threshold', '1'))"


@contextmanager
def _wrapped_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the errors of catalogs and their libraries have no common class
        raise InputError(name, f"cannot be read as an Iceberg table: {type(error).__name__}: {error}") from error


def _load(name: str) -> Any:
    """Return the table CATALOG.NAMESPACE.TABLE; catalogs are those of pyiceberg's configuration."""
    try:
        from pyiceberg.catalog import list_catalogs, load_catalog  # noqa: PLC0415  an extra
    except ImportError as error:
        message = f"is read as an Iceberg table, which needs pyiceberg ({error}): pip install 'prefect-parallel-run[iceberg]'"
        raise InputError(name, message) from error
    catalog, _, identifier = name.partition(".")
    if catalog.lower() not in (known := [name.lower() for name in list_catalogs()]):
        where = "in .pyiceberg.yaml or in environment variables PYICEBERG_CATALOG__NAME__…"
        message = (
            f"the catalog {catalog!r} is not configured {where}; expected one of: {', '.join(known) or 'none is configured'}"
        )
        raise InputError(name, message)
    with _wrapped_errors(name):
        return load_catalog(catalog).load_table(identifier)


class IcebergListing(TableListing):
    """The files of one snapshot of an Iceberg table; raises InputError if its rows need another reader."""

    removal = "expiring snapshots deletes files that newer snapshots do not need; read a newer snapshot"

    def __init__(self, name: str, snapshot_id: int, schema_id: int | None, check_cancelled: CheckCancelled) -> None:
        super().__init__(name, check_cancelled)
        self.version = f"snapshot {snapshot_id} of the Iceberg table"
        table = _load(name)
        _check_snapshot(name, table, snapshot_id)
        with _wrapped_errors(name):
            scan = table.scan(snapshot_id=snapshot_id or None)
            tasks = [] if snapshot_id == _NEVER_WRITTEN else list(scan.plan_files())
            columns = table.schemas()[schema_id] if schema_id is not None else scan.projection()
            self.schema = _as_in_parquet(columns.as_arrow())
            types = {column.field_id: field for column, field in zip(columns.fields, self.schema, strict=True)}
            self.defaults = {types[column.field_id].name: column.initial_default for column in columns.fields}
            #: Files without field ids, which other programs wrote, have columns with these names.
            self._ids = {known: column.field_id for column in table.name_mapping() or () for known in column.names}
            values = {
                _location(task.file.file_path): dict(_identities(task.file.partition, table.specs()[task.file.spec_id], types))
                for task in tasks
            }
        _check_files(name, tasks)
        self.values = dict(sorted(values.items()))
        self.keys = [key for key in next(iter(values.values()), {}) if all(key in known for known in values.values())]

    def stored(self, path: str, schema: pa.Schema, names: Sequence[str]) -> dict[str, pa.Field]:
        """Return the columns *names* of a file with *schema*, by their field ids."""
        ids = {_field_id(field): field for field in schema}
        if set(ids) == {None}:
            ids = {self._ids.get(field.name): field for field in schema}
        columns = {name: (ids.get(_field_id(self.schema.field(name))), self.schema.field(name)) for name in names}
        for name, (field, column) in columns.items():
            if field is not None and _shape(field) != _shape(column):
                message = (
                    f"has other fields inside the column {field.name!r} than {name!r} of the table, which was changed later"
                )
                raise InputError(path, f"{message}: drop the column with drop_columns, run {_REWRITE}, {COPY}")
        return {name: field for name, (field, _) in columns.items() if field is not None}


def _check_snapshot(name: str, table: Any, snapshot_id: int) -> None:
    if snapshot_id != _NEVER_WRITTEN and table.snapshot_by_id(snapshot_id) is None:
        known = ", ".join(str(snapshot.snapshot_id) for snapshot in table.snapshots()[-3:]) or "none"
        raise InputError(name, f"has no snapshot {snapshot_id} (any more); its newest snapshots are: {known}")


def _check_files(name: str, tasks: Sequence[Any]) -> None:
    """Raise InputError unless all rows are those of Parquet files."""
    if any(task.delete_files for task in tasks):
        advice = f"run {_REWRITE}, and read the snapshot that it creates, {COPY}"
        raise InputError(name, f"has rows that were deleted without rewriting their files, which is not supported: {advice}")
    if other := next((task.file for task in tasks if task.file.file_format.name != "PARQUET"), None):
        raise InputError(
            name, f"has the {other.file_format.name} file {other.file_path!r}; expected only Parquet files: {COPY}"
        )


def _identities(values: Sequence[Any], spec: Any, types: Mapping[int, pa.Field]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of the table that have one value in a file, and this value."""
    for part, value in zip(spec.fields, values, strict=True):
        if str(part.transform) == "identity" and part.source_id in types:
            column = types[part.source_id]
            yield column.name, pa.scalar(value, column.type).as_py()


def _as_in_parquet(schema: pa.Schema) -> pa.Schema:
    """Return *schema* with the types that Parquet files with such columns have, such as string for large_string."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink, store_schema=False)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


def _field_id(field: pa.Field) -> int | None:
    text = (field.metadata or {}).get(_FIELD_ID)
    return None if text is None else int(text)


def _shape(field: pa.Field) -> list[Any]:
    """Return the field ids, and in structs the names, of the fields inside *field*."""
    fields = [field.type.field(number) for number in range(field.type.num_fields)]
    return [(_field_id(inner), pa.types.is_struct(field.type) and inner.name, _shape(inner)) for inner in fields]


def _location(path: str) -> str:
    """Return a path of a file, which is not encoded, as an absolute path or as the URL that fsspec knows.

    >>> _location("file:/a b%20"), _location("s3a://bucket/x")
    ('/a b%20', 's3://bucket/x')
    """
    if path.startswith("file:"):
        return "/" + path.removeprefix("file:").lstrip("/")
    return re.sub("^s3[an]://", "s3://", path) if is_remote(path) else absolute_path(path)


class Iceberg(Lakehouse):
    """Divides the Parquet files of an Iceberg table."""

    def listing(self, check_cancelled: CheckCancelled) -> Listing:
        """Return the files of the snapshot."""
        dataset = self.frozen()
        return IcebergListing(dataset.paths[0], cast("int", dataset.version), dataset.schema_id, check_cancelled)

    def frozen(self) -> TabularDataset:
        """Return the dataset with the ids of the current snapshot and schema, unless it has a snapshot."""
        if self._dataset.version is not None:
            return self._dataset
        table = _load(self._dataset.paths[0])
        snapshot = table.current_snapshot()
        version = _NEVER_WRITTEN if snapshot is None else snapshot.snapshot_id
        return self._dataset.model_copy(update={"version": version, "schema_id": table.schema().schema_id})
