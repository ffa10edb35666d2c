"""One result file from the committed ranges of the parts, in mini-batch order: complete or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prefect_parallel_run.errors import OutputError, RowsDifferError, RunFileError
from prefect_parallel_run.output.column_order import Dialect
from prefect_parallel_run.output.parquet import write_parquet
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.output.text import write_text
from prefect_parallel_run.storage.objects import file_sha256


class Published(NamedTuple):
    """A result file."""

    bytes: int
    sha256: str
    rows: int


def publish(
    ranges: Iterable[PartRange], target: Path, row_format: str, token: str, row_options: Mapping[str, Any] | None = None
) -> Published:
    """Put *ranges* together, in the order given, beside *target*, and rename the whole into place.

    Args:
        ranges: Of all mini-batches that succeeded.
        target: The result file; what was there before is replaced at the very end.
        row_format: ``text``, ``csv``, ``jsonl`` or ``parquet``.
        token: Keeps the file beside apart from those of other runs.
        row_options: Keywords of pandas.DataFrame.to_csv with which ``text`` and ``csv`` were written.

    Raises:
        RowsDifferError: The columns of two mini-batches differ.
        OutputError: It cannot be written, or a part is not what the ledger says.
            What was there before is unchanged in either case.
    """
    beside = target.with_name(f".{target.name}.{token}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w+b") as file, Parts() as parts:
            if row_format == "parquet":
                rows, sha256 = write_parquet(list(ranges), parts, file), ""
            else:
                total = hashlib.sha256()

                def write(data: bytes | memoryview) -> None:
                    file.write(data)
                    total.update(data)

                rows = write_text(ranges, parts, Dialect.of(row_format, row_options or {}), write)
                sha256 = total.hexdigest()
            file.flush()
            os.fsync(file.fileno())
        size, sha256 = beside.stat().st_size, sha256 or file_sha256(beside)
        beside.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(str(target), f"cannot be written: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise OutputError(str(target), f"cannot be written as {row_format}: {error}") from error
    except RowsDifferError as error:
        raise RowsDifferError(str(target), error.reason, error.mini_batch, other=error.other) from error
    except RunFileError:
        raise
    except OutputError as error:
        raise OutputError(str(target), error.reason) from error
    finally:
        with suppress(OSError):  # what could not be made, or is in place already; must not hide the first error
            beside.unlink()
    return Published(size, sha256, rows)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
