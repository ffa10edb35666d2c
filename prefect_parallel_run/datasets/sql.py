"""SqlDataset: the rows of a query, which is run once for each run of a step; a Parquet file in the run directory keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr
from typing_extensions import Self

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled, begin, never_cancelled
from prefect_parallel_run.datasets.databases import DATABASES, Rows, checked_uri, resolved, shown
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.listing import Listing

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
        """Return the database, for errors."""
        return shown(self.uri)

    def copied_to(self, folder: Path, resolve: Callable[[str], str], earlier: Sequence[str] = ()) -> Self:
        """Return the dataset with its file: the *earlier* one if it exists, else one in *folder*."""
        paths = [path for path in earlier if Path(path).exists()] or [str(folder / f"{self.name}.parquet")]
        copy = self.model_copy(update={"paths": paths})
        copy._resolve = resolve  # noqa: SLF001  of the same class
        return copy

    def with_input_columns(self, columns: Sequence[str]) -> Self:
        """Return a copy with these input columns; the rows have no file."""
        if "file" in columns:
            raise InputError(self.origin, "append_row_input_columns: expected columns of the query, got 'file'")
        return super().with_input_columns(columns)

    def listing(self, check_cancelled: CheckCancelled = never_cancelled) -> Listing:
        """Return the file that keeps the rows; nothing before the query has run."""
        return Listing([path for path in self.paths if Path(path).exists()], check_cancelled, of_table=True)

    def copy_rows(self, check_cancelled: CheckCancelled = never_cancelled) -> None:
        """Run the query and write its rows, unless they are already there; the file is complete or absent.

        Raises:
            InputError: The database cannot be reached, the query fails, or values of a column would change.
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

        Background("query", partial(self._write, path, rows, secrets), interrupt).wait(check_cancelled)

    def _write(self, path: Path, rows: Rows, secrets: Sequence[str], check_stopped: CheckCancelled) -> None:
        with closing(rows):
            batches = iter(partial(self._next, rows, secrets), None)
            schema = next(batches).schema
            check_stopped()  # another attempt may have started to write meanwhile
            if not schema.names:
                raise InputError(self.origin, "the statement returns no table; expected one SELECT statement")
            if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
                raise InputError(self.origin, f"the query returns several columns {repeated[0]!r}; rename them with AS")
            with (
                wrap_disk_errors(path),
                AtomicFile(path, sync=True, sync_folder=True) as file,
                pq.ParquetWriter(file, schema, compression="zstd") as writer,
            ):
                for batch in batches:
                    groups = max(1, batch.nbytes // _GROUP_BYTES)
                    writer.write_batch(batch, row_group_size=ceil(batch.num_rows / groups))

    def _next(self, rows: Rows, secrets: Sequence[str]) -> pa.RecordBatch | None:
        try:
            return next(rows, None)
        except ImportError as error:
            raise InputError(self.origin, "needs a driver: pip install 'prefect-parallel-run[sql]'") from error
        except ValueError as error:
            text = str(error)
        for secret in secrets:
            text = text.replace(secret, "***")
        # Raised here, so that the driver's error is not its context.
        raise InputError(self.origin, f"the query failed: {' '.join(text.split())}")
