"""The plan on disk: every mini-batch of a run, numbered, in plan.parquet; and the same plan while it is still being made.

A mini-batch is frozen before it is handed out. While the input is still being listed, what is planned so far lies in a
*spool* (an Arrow stream beside the plan to come), from which leases are made and which outlives the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.records import MiniBatch

SCHEMA = pa.schema(
    [
        ("mini_batch", pa.int64()),
        ("input", pa.string()),
        ("items", pa.int64()),
        ("bytes", pa.int64()),
        ("work", pa.string()),
    ]
)
SUMMARY = b"prefect_parallel_run"  #: key of the summary in the file's metadata
_CACHED_GROUPS = 3


class PlanSummary(NamedTuple):
    """What a plan holds."""

    mini_batches: int
    items: int
    size: int  #: bytes of source
    sha256: str  #: of the content: input, items and work of every mini-batch
    kind: str  #: file, tabular
    inputs_sha256: str  #: of the files that were listed: path, size and version of each


def content(input_name: str, items: int, work: str) -> bytes:
    """Return what makes a mini-batch the same one in two plans, as one line."""
    return f"{input_name}\t{items}\t{work}\n".encode("ascii")


class PlanReader:
    """Mini-batches in groups, decoded as they are needed; the last few groups are kept."""

    def __init__(self, starts: list[int]) -> None:
        self._starts = starts  #: first mini-batch of every group, and the total
        self._cache: dict[int, pa.Table] = {}

    def works(self, start: int, stop: int) -> list[str]:
        """Return the work texts of mini-batches *start* to *stop*."""
        return self._column("work", start, stop)

    def items(self, start: int, stop: int) -> list[int]:
        """Return the items of mini-batches *start* to *stop*."""
        return self._column("items", start, stop)

    def mini_batches(self, start: int = 0, stop: int | None = None) -> Iterator[MiniBatch]:
        """Yield mini-batches *start* to *stop*, by default all; memory stays flat."""
        stop = self._starts[-1] if stop is None else stop
        for number, first, last in self._groups(start, stop):
            table = self._group(number).slice(first, last - first)
            columns = [table.column(name).to_pylist() for name in SCHEMA.names]
            yield from map(MiniBatch._make, zip(*columns, strict=True))

    def typical_bytes(self) -> int:
        """Return the bytes of a work text, about, going by the first group."""
        works = self.works(0, min(self._starts[1], 1_000)) if len(self._starts) > 1 else []
        return max(sum(map(len, works)) // max(len(works), 1), 1)

    def _column(self, name: str, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        for number, first, last in self._groups(start, stop):
            found += self._group(number).column(name).slice(first, last - first).to_pylist()
        return found

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield group, and first and last row in it, of mini-batches *start* to *stop*."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[number], self._starts[number + 1]
            yield number, start - begin, min(stop, end) - begin
            number, start = number + 1, end

    def _group(self, number: int) -> pa.Table:
        table = self._cache.pop(number, None)
        if table is None:
            table = self._load(number)
        self._cache[number] = table  # now the newest
        while len(self._cache) > _CACHED_GROUPS:
            del self._cache[next(iter(self._cache))]
        return table

    @abstractmethod
    def _load(self, number: int) -> pa.Table:
        """Return a group, decoded."""


class Plan(PlanReader):
    """A whole plan in plan.parquet; raises OutputError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as source, pq.ParquetFile(source) as file:
                self._metadata = file.metadata  # parsed once: a plan of millions has thousands of groups
        except (OSError, pa.ArrowException) as error:
            raise OutputError(str(path), f"is no plan that can be read: {error}") from error
        self.summary = PlanSummary(**json.loads(self._metadata.metadata[SUMMARY]))
        starts = [0]
        for number in range(self._metadata.num_row_groups):
            starts.append(starts[-1] + self._metadata.row_group(number).num_rows)
        super().__init__(starts)

    @classmethod
    def open(cls, path: Path) -> Plan:
        """Return the plan in *path*."""
        return cls(path)

    def all_items(self) -> Iterator[int]:
        """Yield the items of every mini-batch, without decoding anything else."""
        with self._path.open("rb") as source, pq.ParquetFile(source) as file:
            for number in range(len(self._starts) - 1):
                yield from file.read_row_group(number, columns=["items"]).column(0).to_pylist()

    def content_sha256(self) -> str:
        """Return the hash of the content, computed anew."""
        total = hashlib.sha256()
        for mini_batch in self.mini_batches():
            total.update(content(mini_batch.input_name, mini_batch.items, mini_batch.work))
        return total.hexdigest()

    def _load(self, number: int) -> pa.Table:
        with self._path.open("rb") as source, pq.ParquetFile(source, metadata=self._metadata) as file:
            return file.read_row_group(number)


class Spool(PlanReader):
    """A plan that is being made: one thread appends groups, another reads those that are there."""

    def __init__(self, path: Path) -> None:
        super().__init__([0])
        self._offsets: list[tuple[int, int]] = []  #: of every group in the file, start and stop
        self._file = path.open("w+b")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        self._stream.write_batch(
            pa.RecordBatch.from_pylist([], schema=SCHEMA)
        )  # with it goes the schema, in front of all groups
        self._file.flush()

    def append(self, group: pa.Table) -> None:
        """Add a group; it can be read from then on."""
        start = self._file.tell()
        (batch,) = group.combine_chunks().to_batches()
        self._stream.write_batch(batch)
        self._file.flush()
        self._offsets.append((start, self._file.tell()))
        self._starts.append(self._starts[-1] + group.num_rows)  # last: who reads goes by it

    def close(self) -> None:
        """Close the file; the groups can still be read by ``spooled``."""
        self._file.close()

    def _load(self, number: int) -> pa.Table:
        start, stop = self._offsets[number]
        data = os.pread(self._file.fileno(), stop - start, start)
        return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(data), SCHEMA)])


def planned_in(path: Path, spool: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches of the plan in *path* or, where it was never finished, as far as its *spool* goes."""
    return Plan.open(path).mini_batches() if path.exists() else spooled(spool)


def spooled(path: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches of a plan that was never finished, as far as its spool goes."""
    with path.open("rb") as source:
        try:
            for batch in pa.ipc.open_stream(source):
                columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
                yield from map(MiniBatch._make, zip(*columns, strict=True))
        except (pa.ArrowException, OSError):  # the process ended while it wrote the last group: nothing of it was handed out
            return
