"""SqlDataset: the rows of a query, which is run once for each run of a step; a Parquet file in the run directory keeps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from math import ceil
from pathlib import Path
from textwrap import shorten
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled, begin, never_cancelled
from prefect_parallel_run.datasets.columns import check_has_columns, check_input_columns
from prefect_parallel_run.datasets.databases import DATABASES, Rows, checked_uri, resolved, shown
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.listing import Listing

_SHOWN = 60  #: characters of a query in errors
_GROUP_BYTES = 8 << 20  #: bytes of rows in a row group: a mini-batch reads whole ones


class SqlDataset(TabularDataset):
    """The rows that a query returns. In a run, ``paths`` has the file that keeps them."""

    model_config = ConfigDict(hide_input_in_errors=True)
    reads_once: ClassVar[bool] = True

    paths: list[str] = Field(default=[], description="The file that keeps the rows, in a run.")
    format: str = Field(default="parquet", description="Format of that file.")
    query: str = Field(min_length=1, description="A SQL query.")
    uri: Annotated[str, AfterValidator(checked_uri)] = Field(description="Where the database is; no password.")
    _resolve: Callable[[str], str] = PrivateAttr(default=str)  # returns the value of a reference to a Prefect block

    @property
    def origin(self) -> str:
        """Return the beginning of the query, and its database, for errors."""
        return f"query {shorten(self.query, _SHOWN, placeholder=' …')!r} in {shown(self.uri)}"

    def copied_to(self, folder: Path, resolve: Callable[[str], str], earlier: Sequence[str] = ()) -> Self:
        """Return the dataset with its file: the *earlier* one if it exists, else one in *folder*."""
        paths = [path for path in earlier if Path(path).exists()] or [str(folder / f"{self.name}.parquet")]
        copy = self.model_copy(update={"paths": paths})
        copy._resolve = resolve  # noqa: SLF001  of the same class
        return copy

    def listing(self, check_cancelled: CheckCancelled = never_cancelled) -> Listing:
        """Return the file that keeps the rows; nothing before the query has run."""
        return Listing([path for path in self.paths if Path(path).exists()], check_cancelled, of_table=True)

    def copy_rows(self, check_cancelled: CheckCancelled = never_cancelled, keys: Sequence[str] = ()) -> None:
        """Run the query and write its rows, unless they are already there; the file is complete or absent.

        Raises:
            InputError: The database cannot be reached, the query fails or lacks a column, or values of a column would change.
        """
        if not self.paths:  # planned before the run has a directory
            raise InputError(self.origin, "a query cannot be combined with inputs that the script may write to")
        path = Path(self.paths[0])
        if path.exists():
            return
        with wrap_disk_errors(path):
            path.parent.mkdir(exist_ok=True)
        uri, secrets = resolved(self.uri, self._resolve)
        cancels: list[Callable[[], None]] = []
        rows = DATABASES[uri.partition("://")[0]](uri, self.query, cancels)

        def interrupt() -> None:
            for cancel in cancels:
                begin(cancel)  # it may wait for the server, and fails if the query has just ended

        Background("query", partial(self._write, path, rows, secrets, keys), interrupt).wait(check_cancelled)

    def _write(
        self, path: Path, rows: Rows, secrets: Sequence[str], keys: Sequence[str], check_stopped: CheckCancelled
    ) -> None:
        with closing(rows):
            batches = iter(partial(self._next, rows, secrets), None)
            schema = next(batches).schema
            self._check_names(schema.names, keys)
            check_stopped()  # another attempt may have started to write meanwhile
            with (
                wrap_disk_errors(path),
                AtomicFile(path, sync=True, sync_folder=True) as file,
                pq.ParquetWriter(file, schema, compression="zstd") as writer,
            ):
                for batch in batches:
                    groups = max(1, batch.nbytes // _GROUP_BYTES)
                    writer.write_batch(batch, row_group_size=ceil(batch.num_rows / groups))

    def _check_names(self, names: list[str], keys: Sequence[str]) -> None:
        """Raise InputError unless the query returns the columns that the dataset and the configuration name."""
        if not names:
            raise InputError(self.origin, "the statement returns no table; expected one SELECT statement")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(self.origin, f"the query returns several columns {repeated[0]!r}; rename them with AS")
        self.selection.check_names(self.origin, names)
        check_has_columns(self.origin, names, keys, "partition_keys")
        check_input_columns(self.origin, self.selection.kept(names), self._input_columns, located=("row",))

    def _next(self, rows: Rows, secrets: Sequence[str]) -> pa.RecordBatch | None:
        try:
            return next(rows, None)
        except ImportError as error:
            raise InputError(self.origin, "needs a driver: pip install 'prefect-parallel-run[sql]'") from error
        except (ValueError, OSError, pa.ArrowException, sqlite3.Error) as error:
            text = str(error)
        for secret in secrets:
            text = text.replace(secret, "***")
        # Raised here, so that the driver's error is not its context.
        raise InputError(self.origin, f"the query failed: {' '.join(text.split())}")
