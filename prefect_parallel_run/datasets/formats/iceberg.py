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

from prefect_parallel_run.child.storage import is_remote, store_of
from prefect_parallel_run.datasets.formats.lakehouse import COPY, Lakehouse, TableListing
from prefect_parallel_run.environments import without_credentials
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import absolute_path

if TYPE_CHECKING:
    from prefect_parallel_run._threads import CheckCancelled
    from prefect_parallel_run.storage.listing import Listing

_FIELD_ID = b"PARQUET:field_id"  #: in the metadata of a field
_NEVER_WRITTEN = 0  #: version of a frozen table that has no snapshot
_OPTIONS = "map('rewrite-all', 'true', 'use-starting-sequence-number', 'false')"
_REWRITE = f"CALL … .system.rewrite_data_files(table => …, options => {_OPTIONS})"


@contextmanager
def _wrapped_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  the errors of catalogs and their libraries have no common class
        reason = without_credentials(f"{type(error).__name__}: {error}")
        raise InputError(name, f"cannot be read as an Iceberg table: {reason}") from None  # the cause has the credentials


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

    removal = "files are deleted when a snapshot expires; read a newer snapshot"

    def __init__(self, name: str, snapshot_id: int, schema_id: int | None, check_cancelled: CheckCancelled) -> None:
        super().__init__(name, check_cancelled)
        self.version = f"snapshot {snapshot_id} of the Iceberg table"
        table = _load(name)
        is_written = snapshot_id != _NEVER_WRITTEN or schema_id is None  # a user may ask for a snapshot of this number
        if is_written and table.snapshot_by_id(snapshot_id) is None:
            known = ", ".join(str(snapshot.snapshot_id) for snapshot in table.snapshots()[-3:]) or "none"
            raise InputError(name, f"lacks snapshot {snapshot_id}, which may have expired; its newest snapshots are: {known}")
        with _wrapped_errors(name):
            scan = table.scan(snapshot_id=snapshot_id or None)
            tasks = list(scan.plan_files()) if is_written else []
            columns = table.schemas()[schema_id] if schema_id is not None else scan.projection()
            self.schema = _as_in_parquet(columns.as_arrow())
            types = {column.field_id: field for column, field in zip(columns.fields, self.schema, strict=True)}
            self.defaults = {types[column.field_id].name: column.initial_default for column in columns.fields}
            self._mapping = table.name_mapping()  # of columns to field ids
            values = {
                _location(task.file.file_path): dict(_identities(task.file.partition, table.specs()[task.file.spec_id], types))
                for task in tasks
            }
        _check_files(name, tasks)
        if len(values) < len(tasks):
            raise InputError(name, f"lists a file more than once, so that its rows would be doubled; {COPY}")
        self.values = dict(sorted(values.items()))
        self.keys = [key for key in next(iter(values.values()), {}) if all(key in known for known in values.values())]

    def stored(self, path: str, schema: pa.Schema, names: Sequence[str]) -> dict[str, pa.Field]:
        """Return the columns *names* of a file with *schema*, by their field ids."""
        identified = list(schema)
        if any(_field_id(field) is None for field in schema):
            identified = self._identified(path, schema)
        places = {_field_id(field): place for place, field in enumerate(identified)}
        found = {}
        for column in map(self.schema.field, names):
            if (place := places.get(_field_id(column))) is not None:
                found[column.name] = schema.field(place)
                if _shape(identified[place]) != _shape(column):
                    message = (
                        f"has other fields inside the column {schema.field(place).name!r} than {column.name!r} of the table"
                    )
                    advice = (
                        f"drop the column with drop_columns, run {_REWRITE} and read the snapshot that it creates, or {COPY}"
                    )
                    raise InputError(path, f"{message}, which was changed later: {advice}")
        return found

    def _identified(self, path: str, schema: pa.Schema) -> list[pa.Field]:
        """Return the columns of a file that another program wrote, with the field ids of the table's name mapping."""
        from pyiceberg.io.pyarrow import pyarrow_to_schema  # noqa: PLC0415  an extra

        with _wrapped_errors(path):
            return list(pyarrow_to_schema(schema, self._mapping, downcast_ns_timestamp_to_us=True).as_arrow())


def _check_files(name: str, tasks: Sequence[Any]) -> None:
    """Raise InputError unless all rows are those of Parquet files."""
    if any(task.delete_files for task in tasks):
        advice = f"run {_REWRITE} and read the snapshot that it creates, or {COPY}"
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
    """Return *schema* with the types that such columns have in Parquet files, string for large_string: these are compared."""
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
    """Return a path of a file as an absolute path, or as the URL that a listing of its store has. It is never percent-encoded.

    >>> _location("file:/a b%20"), _location("s3a://bucket/x")
    ('/a b%20', 's3://bucket/x')
    """
    if path.startswith("file:"):
        return "/" + path.removeprefix("file:").lstrip("/")
    if not is_remote(path):
        return absolute_path(path)
    store, name = store_of(re.sub("^s3[an]://", "s3://", path))
    return str(store.unstrip_protocol(name))


class Iceberg(Lakehouse):
    """Divides the Parquet files of an Iceberg table."""

    def listing(self, check_cancelled: CheckCancelled) -> Listing:
        """Return the files of the snapshot."""
        dataset = self._dataset.frozen()
        return IcebergListing(dataset.paths[0], cast("int", dataset.version), dataset.schema_id, check_cancelled)

    def newest(self) -> dict[str, int]:
        """Return the ids of the current snapshot and schema."""
        table = _load(self._dataset.paths[0])
        snapshot = table.current_snapshot()
        version = _NEVER_WRITTEN if snapshot is None else snapshot.snapshot_id
        return {"version": version, "schema_id": table.schema().schema_id}
