"""Delta tables: the Parquet files of one version, with the columns that only the table's log has.

The package deltalake reads the log, in the process that plans; children read the Parquet files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.formats.lakehouse import COPY, Lakehouse, TableListing
from prefect_parallel_run.errors import InputError

if TYPE_CHECKING:
    from prefect_parallel_run._threads import CheckCancelled
    from prefect_parallel_run.storage.listing import Listing

_DELETION_VECTORS, _MAPPING_MODE = "deletionVectors", "delta.columnMapping.mode"
#: Reader features without effect on the rows of files, or whose use by a version is checked.
_FEATURES = {_DELETION_VECTORS, "columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
_COLORS = re.compile(r"\x1b\[[0-9;]*m")  #: in messages of deltalake, which have several lines
_EXPECTED = "expected a folder that contains _delta_log; read Parquet files without it with from_parquet_files"
_SHOWN = 3  #: newest versions that an error names
_PARTITION = "partition."  #: prefix of partition columns in deltalake's table of files


@contextmanager
def _opened(path: str, version: int | None = None) -> Iterator[Any]:
    """Open a table with deltalake, whose errors become InputError."""
    if unquote(path) != path or "\\" in path or (is_remote(path) and set("?#").intersection(path)):
        unsupported = "a percent-encoded character, a backslash, or ? or # in a URL"
        raise InputError(path, f"contains {unsupported}, for which deltalake would read the log of another folder: rename it")
    try:
        from deltalake import DeltaTable  # noqa: PLC0415  an extra
        from deltalake.exceptions import DeltaError, TableNotFoundError  # noqa: PLC0415  as above
    except ImportError as error:
        message = f"is read as a Delta table, which needs deltalake ({error}): pip install 'prefect-parallel-run[delta]'"
        raise InputError(path, message) from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options = {"aws_allow_http": "true"} if endpoint.startswith("http://") else None  # s3fs needs no permission for it
    try:
        yield DeltaTable(path, version=version, storage_options=options)
    except (DeltaError, OSError, ValueError) as error:
        reason = " ".join(_COLORS.sub("", str(error)).split()).rstrip(".")
        if version is not None:
            raise InputError(path, _missing(path, version, reason)) from error
        advice = f"; {_EXPECTED}" if isinstance(error, TableNotFoundError) or Path(path).is_file() else ""
        raise InputError(path, f"the newest version cannot be read as a Delta table: {reason}{advice}") from error


def _missing(path: str, version: int, reason: str) -> str:
    """Return why a version cannot be read; raises InputError if no version can."""
    with _opened(path) as table:
        known = [commit["version"] for commit in table.history(_SHOWN)]
    newest = f"its newest versions are: {', '.join(map(str, known))}"
    if version > table.version():
        return f"lacks version {version}; {newest}"
    expired = "" if version in known else "; its log may have expired"
    return f"version {version} cannot be read as a Delta table: {reason}{expired}; {newest}"


def version_of(path: str, time: str | None = None) -> int:
    """Return the newest version of a table, now or at *time* (ISO 8601); raises InputError."""
    with _opened(path) as table:
        if time is not None:
            table.load_as_version(time)  # for a time before the first commit: the first version
            first = min((commit["timestamp"] for commit in table.history() if "timestamp" in commit), default=0)  # ms
            created = datetime.fromtimestamp(first / 1000, timezone.utc)
            if created > (wanted := datetime.fromisoformat(time.upper().replace("Z", "+00:00"))):
                raise InputError(path, f"has no version at {wanted.isoformat()}; expected {created.isoformat()} or later")
        return int(table.version())


def _check_features(root: str, table: Any) -> None:
    """Raise InputError for a table whose files and log do not hold its rows as they are."""
    features = set(table.protocol().reader_features or ())
    mode = table.metadata().configuration.get(_MAPPING_MODE, "none")
    if mode != "none":
        raise InputError(root, f"has {_MAPPING_MODE} {mode!r}; expected a table without column mapping: drop it, or {COPY}")
    if unknown := sorted(features - _FEATURES):
        expected = f"expected only {', '.join(sorted(_FEATURES))}"
        advice = f"ALTER TABLE … DROP FEATURE {unknown[0]}, or {COPY}"
        raise InputError(root, f"needs the reader features {', '.join(unknown)}; {expected}: {advice}")
    if _DELETION_VECTORS in features and any(batch.num_rows for batch in table.deletion_vectors()):
        advice = "run REORG TABLE … APPLY (PURGE), and read the version that it creates"
        raise InputError(root, f"has files with deletion vectors (deleted rows), which are not supported: {advice}")
    schema = pa.schema(table.schema().to_arrow())
    for name in table.metadata().partition_columns:
        if pa.types.is_binary(schema.field(name).type):  # writers encode bytes in different ways, deltalake decodes none
            raise InputError(
                root, f"is partitioned by {name!r}, which has bytes; expected partition columns without: or {COPY}"
            )


class DeltaListing(TableListing):
    """The files of one version of a Delta table; raises InputError if its rows need another reader."""

    removal = "a vacuum deletes files that newer versions do not need; read a newer version"

    def __init__(self, root: str, version: int | None, check_cancelled: CheckCancelled) -> None:
        super().__init__(root, check_cancelled)
        with _opened(root, version) as table:
            _check_features(root, table)
            files = pa.table(table.get_add_actions(flatten=True))
            self.schema = pa.schema(table.schema().to_arrow())
            self.keys = table.metadata().partition_columns
            self.version = f"version {table.version()} of the Delta table"
        partitions = [name for name in files.column_names if name.startswith(_PARTITION)]
        values = {}
        for file in files.select(["path", *partitions]).to_pylist():
            path = unquote(file["path"])
            if path.startswith("/") or "://" in path or ".." in path.split("/"):
                advice = "read the table that it was cloned from"
                raise InputError(root, f"has files outside of its folder (a shallow clone), such as {path!r}: {advice}")
            values[f"{root}/{path}"] = {key: file[f"{_PARTITION}{key}"] for key in self.keys}
        self.values = dict(sorted(values.items()))

    def stored(self, path: str, schema: pa.Schema, names: Sequence[str]) -> dict[str, pa.Field]:
        """Return the columns *names* of a file with *schema*; partition columns are those of the log."""
        spellings = {name.lower(): name for name in schema.names}  # Delta ignores the case
        for name in names:
            if (similar := spellings.get(name.lower(), name)) != name:
                message = f"has the column {similar!r}, which the table calls {name!r}; rename it there, or {COPY}"
                raise InputError(path, message)
        return {name: schema.field(name) for name in names if name in schema.names and name not in self.keys}


class Delta(Lakehouse):
    """Divides the Parquet files of a Delta table."""

    def listing(self, check_cancelled: CheckCancelled) -> Listing:
        """Return the files of the version."""
        return DeltaListing(self._dataset.paths[0].rstrip("/"), self._dataset.version, check_cancelled)

    def newest(self) -> dict[str, int]:
        """Return the newest version."""
        return {"version": version_of(self._dataset.paths[0])}
