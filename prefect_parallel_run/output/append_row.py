"""Publishes one result file from the committed rows, in mini-batch order: complete or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run.errors import OutputError, RowsDifferError, RunFileError
from prefect_parallel_run.output.column_order import Dialect
from prefect_parallel_run.output.parquet import write_parquet
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.output.text import write_text
from prefect_parallel_run.storage.objects import sha256_of


class Published(NamedTuple):
    """Size, checksum and rows of a result file."""

    bytes: int
    sha256: str
    rows: int


def publish(
    ranges: Iterable[PartRange], target: Path, row_format: str, token: str, row_options: Mapping[str, Any] | None = None
) -> Published:
    """Write *ranges* in order to a temporary file beside *target*, and rename it when it is complete.

    Args:
        ranges: Rows of all succeeded mini-batches.
        target: The result file; an existing file is replaced at the very end.
        row_format: ``text``, ``csv``, ``jsonl`` or ``parquet``.
        token: Part of the temporary file's name, unique to the run.
        row_options: Options of pandas.DataFrame.to_csv that the rows of ``text`` and ``csv`` were written with.

    Raises:
        RowsDifferError: The columns of two mini-batches differ.
        OutputError: The file cannot be written, or a part differs from the ledger.
            An existing file is unchanged in all cases.
    """
    try:
        with wrap_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with AtomicFile(target, sync=True, sync_folder=True, token=token) as file, Parts() as parts:
                if row_format == "parquet":
                    rows = write_parquet(list(ranges), parts, file)
                    sha256 = sha256_of(file)
                else:
                    digest = hashlib.sha256()

                    def write(data: bytes | memoryview) -> None:
                        file.write(data)
                        digest.update(data)

                    rows = write_text(ranges, parts, Dialect.of(row_format, row_options or {}), write)
                    sha256 = digest.hexdigest()
                size = file.tell()
    except pa.ArrowException as error:
        raise OutputError(str(target), f"cannot be written as {row_format}: {error}") from error
    except RowsDifferError as error:
        raise RowsDifferError(str(target), error.reason, error.mini_batch, other=error.other) from error
    except RunFileError:
        raise
    except OutputError as error:
        raise OutputError(str(target), error.reason) from error
    return Published(size, sha256, rows)
