"""One result file from the committed ranges of the parts, in mini-batch order: complete or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa

from prefect_parallel_run.errors import OutputError, RowsDifferError, RunFileError
from prefect_parallel_run.output.parquet import write_parquet
from prefect_parallel_run.output.parts import PartRange, Parts
from prefect_parallel_run.stores.objects import file_sha256

_MOST_TOGETHER = 1_024  #: ranges read at once


class Published(NamedTuple):
    """A result file."""

    bytes: int
    sha256: str
    rows: int


def publish(ranges: Iterable[PartRange], target: Path, row_format: str, token: str) -> Published:
    """Put *ranges* together, in the order given, beside *target*, and rename the whole into place.

    Args:
        ranges: Of all mini-batches that succeeded.
        target: The result file; what was there before is replaced at the very end.
        row_format: ``text``, ``csv``, ``jsonl`` or ``parquet``.
        token: Keeps the file beside apart from those of other runs.

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
                rows, sha256 = _write_text(ranges, parts, file)
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


def _write_text(ranges: Iterable[PartRange], parts: Parts, file: IO[bytes]) -> tuple[int, str]:
    """Write text of any format: the header of the first mini-batch that has one, then all rows.

    Returns:
        The number of rows, and the SHA-256 of all that was written.
    """
    total = hashlib.sha256()

    def write(data: bytes | memoryview) -> None:
        file.write(data)
        total.update(data)

    rows = header_of = 0
    header: bytes | None = None
    for run in _runs(ranges):
        rows += sum(found.rows for found in run)
        first = run[0]
        if first.header:
            found = parts.head(first)
            if header is None:
                write(found)
            elif found != header:
                words = f"mini-batch {first.mini_batch} {_difference(header, found)}"
                raise RowsDifferError("", words, first.mini_batch, other=header_of)
            header, header_of = found, first.mini_batch
        parts.copy(run, write, first.header)
    return rows, total.hexdigest()


def _runs(ranges: Iterable[PartRange]) -> Iterator[list[PartRange]]:
    """Yield ranges with neighbours in one part together, so that many small ones are read at once.

    A range with a header stands alone: its header has to be looked at and left out.
    """
    run: list[PartRange] = []
    for found in ranges:
        if run and not (
            found.part is run[-1].part  # one object per part: part_ranges
            and found.offset == run[-1].offset + run[-1].length
            and not found.header
            and not run[0].header
            and len(run) < _MOST_TOGETHER
        ):
            yield run
            run = []
        run.append(found)
    if run:
        yield run


def _difference(header: bytes, found: bytes) -> str:
    """Return in words how the columns of a mini-batch differ from those before."""
    before, now = header.decode("utf-8", "replace").rstrip("\n"), found.decode("utf-8", "replace").rstrip("\n")
    for number, (one, other) in enumerate(zip(before.split(","), now.split(","), strict=False), 1):
        if one != other:
            return f"has column {other!r} where the mini-batches before have {one!r} (column {number})"
    return f"has the columns {now!r} where the mini-batches before have {before!r}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
