"""Delta tables: the Parquet files of one version, with the columns that only the table's log has.

The package deltalake reads the log, in the process that plans; children read the Parquet files.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import pyarrow as pa

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.formats.row_groups import Parquet, kept_schema
from prefect_parallel_run.datasets.partitions import IN_ROWS, KeyValue, key_value
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.folders import ListedFile, read_status
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.objects import list_store

if TYPE_CHECKING:
    from prefect_parallel_run._threads import CheckCancelled
    from prefect_parallel_run.datasets.formats import FilePlan

_DELETION_VECTORS, _MAPPING_MODE = "deletionVectors", "delta.columnMapping.mode"
#: Reader features without effect on the rows of files, or whose use by a version is checked.
_FEATURES = {_DELETION_VECTORS, "columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
_COLORS = re.compile(r"\x1b\[[0-9;]*m")  #: in messages of deltalake, which have several lines
_PARTITION = "partition."  #: prefix of partition columns in deltalake's table of files
_COPY = "or write its rows to a new table (CREATE TABLE … AS SELECT) and read that one"


@contextmanager
def _opened(path: str, version: int | None = None) -> Iterator[Any]:
    """Open a table with deltalake, whose errors become InputError."""
    if unquote(path) != path or "\\" in path or (is_remote(path) and set("?#").intersection(path)):
        unsupported = "a percent-encoded character, a backslash, or ? or # in a URL"
        raise InputError(path, f"contains {unsupported}, for which deltalake would read the log of another folder: rename it")
    try:
        from deltalake import DeltaTable  # noqa: PLC0415  an extra
        from deltalake.exceptions import DeltaError  # noqa: PLC0415  as above
    except ImportError as error:
        message = f"is read as a Delta table, which needs deltalake ({error}): pip install 'prefect-parallel-run[delta]'"
        raise InputError(path, message) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options = {"aws_allow_http": "true"} if endpoint.startswith("http://") else None  # s3fs needs no permission for it
    try:
        yield DeltaTable(path, version=version, storage_options=options)
    except (DeltaError, OSError, ValueError) as error:
        what = "the newest version" if version is None else f"version {version}"
        reason = " ".join(_COLORS.sub("", str(error)).split())
        raise InputError(path, f"{what} cannot be read as a Delta table: {reason}") from error


def version_of(path: str, time: str | None = None) -> int:
    """Return the newest version of a table, now or at *time* (ISO 8601); raises InputError."""
    with _opened(path) as table:
        if time is not None:
            table.load_as_version(time)
            _check_time(path, table, datetime.fromisoformat(time.upper().replace("Z", "+00:00")))
        return int(table.version())


def _check_time(root: str, table: Any, time: datetime) -> None:
    """Raise InputError for a time before the first commit, for which deltalake returns the version of that commit."""
    first = min((commit["timestamp"] for commit in table.history() if "timestamp" in commit), default=0)  # ms
    created = datetime.fromtimestamp(first / 1000, timezone.utc)
    if created > time:
        raise InputError(root, f"has no version at {time.isoformat()}; expected {created.isoformat()} or later")


def _check_features(root: str, table: Any) -> None:
    """Raise InputError for a table whose files and log do not hold its rows as they are."""
    features = set(table.protocol().reader_features or ())
    mode = table.metadata().configuration.get(_MAPPING_MODE, "none")
    if mode != "none":
        raise InputError(root, f"has {_MAPPING_MODE} {mode!r}; expected a table without column mapping: drop it, {_COPY}")
    if unknown := sorted(features - _FEATURES):
        expected = f"expected only {', '.join(sorted(_FEATURES))}"
        advice = f"ALTER TABLE … DROP FEATURE {unknown[0]}, {_COPY}"
        raise InputError(root, f"needs the reader features {', '.join(unknown)}; {expected}: {advice}")
    if _DELETION_VECTORS in features and any(batch.num_rows for batch in table.deletion_vectors()):
        advice = "run REORG TABLE … APPLY (PURGE), and read the version that it creates"
        raise InputError(root, f"has files with deletion vectors (deleted rows), which are not supported: {advice}")
    schema = pa.schema(table.schema().to_arrow())
    for name in table.metadata().partition_columns:
        if pa.types.is_binary(schema.field(name).type):  # writers encode bytes in different ways, deltalake decodes none
            raise InputError(root, f"is partitioned by {name!r}, which has bytes; expected partition columns without: {_COPY}")


class DeltaListing(Listing):
    """The files of one version of a Delta table; raises InputError if its rows need another reader."""

    def __init__(self, root: str, version: int | None, check_cancelled: CheckCancelled) -> None:
        super().__init__([root], check_cancelled, of_table=True)
        with _opened(root, version) as table:
            _check_features(root, table)
            files = pa.table(table.get_add_actions(flatten=True))
            self.schema = pa.schema(table.schema().to_arrow())
            self.keys: list[str] = table.metadata().partition_columns
            self._root, self._version = root, table.version()
        partitions = [name for name in files.column_names if name.startswith(_PARTITION)]
        values = {}
        for file in files.select(["path", *partitions]).to_pylist():
            path = unquote(file["path"])
            if path.startswith("/") or "://" in path or ".." in path.split("/"):
                advice = "read the table that it was cloned from"
                raise InputError(root, f"has files outside of its folder (a shallow clone), such as {path!r}: {advice}")
            values[f"{root}/{path}"] = {key: file[f"{_PARTITION}{key}"] for key in self.keys}
        self.values = dict(sorted(values.items()))  #: values of the partition columns, by path of a file

    def _files(self) -> Generator[ListedFile, None, None]:
        """Yield the files, each as the file system or the store has it now: children check size and version."""
        objects = {file.path: file for file in list_store(f"{self._root}/")} if is_remote(self._root) else None
        for path in self.values:
            try:
                yield _local(path) if objects is None else objects[path]
            except (InputError, KeyError) as error:
                message = f"is a file of version {self._version} of the Delta table, but cannot be found"
                advice = "a vacuum deletes files that newer versions do not need; read a newer version"
                raise InputError(path, f"{message}: {advice}") from error


def _local(path: str) -> ListedFile:
    status = read_status(path)
    return ListedFile(path, status.st_size, status.st_mtime_ns)


class Delta(Parquet):
    """Divides the Parquet files of a Delta table."""

    _listing: DeltaListing

    def listing(self, check_cancelled: CheckCancelled) -> Listing:
        """Return the files of the version."""
        return DeltaListing(self._dataset.paths[0].rstrip("/"), self._dataset.version, check_cancelled)

    def keys(self, listing: Listing) -> list[str]:
        """Return the partition columns."""
        return cast("DeltaListing", listing).keys

    def files(self, listing: Listing) -> Iterator[tuple[ListedFile, list[KeyValue]]]:
        """Yield every file with its values of the partition columns, which the log has: names of folders are not binding."""
        self._listing = cast("DeltaListing", listing)
        for file in listing:
            values = self._listing.values[file.path].items()
            yield file, [key_value(key, value)._replace(type=IN_ROWS) for key, value in values]

    def plan(self, file: ListedFile, size: int) -> FilePlan:
        """Divide *file*; values that its metadata has for partition keys do not count."""
        return super().plan(file, size)._replace(keys=None)

    def table_schema(self, file: ListedFile, schema: pa.Schema) -> tuple[pa.Schema, dict[str, Any]]:
        """Return the columns of the table, those that the file lacks as strings: their values do not depend on its nulls."""
        values, whole = self._listing.values[file.path], self._listing.schema
        stored = {name: schema.field(name) for name in schema.names if name not in values}
        names = kept_schema(whole, self._dataset.selection.fields()).names
        others = [whole.field(name) for name in names if name not in stored or stored[name].type != whole.field(name).type]
        for field in others:
            _check_column(file.path, field, stored)
        readable = pa.schema([field if field.name in stored else field.with_type(pa.string()) for field in whole])
        if schema.names == names and not others:
            return readable, {}
        row = pa.Table.from_pylist([values], pa.schema(others))  # null for a column that the file lacks
        casts = [field.name for field in others if field.name in stored]
        return readable, {"columns": names, "row": _encoded(row), "cast": casts}


def _check_column(path: str, field: pa.Field, stored: Mapping[str, pa.Field]) -> None:
    """Raise InputError unless the values of a column of the table are those in the file, cast, or missing there."""
    similar = next((name for name in stored if name.lower() == field.name.lower()), None)  # Delta ignores the case
    if similar not in (None, field.name):
        raise InputError(path, f"has the column {similar!r}, which the table calls {field.name!r}; rename it there, {_COPY}")
    try:
        pa.array([], stored.get(field.name, field).type).cast(field.type)
    except pa.ArrowException as error:
        message = f"has {stored[field.name].type} in column {field.name!r}; expected the table's type {field.type}"
        raise InputError(path, f"{message}: drop the column with drop_columns, {_COPY}") from error


def _encoded(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()
