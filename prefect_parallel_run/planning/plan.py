"""The plan of a run on disk: every mini-batch, numbered. A mini-batch is frozen before it is scheduled.

The complete plan is plan.parquet. While it is being written, the mini-batches planned so far are in the spool, which leases are
created from and which survives a crash: a sequence of groups of mini-batches, each compressed separately. The spool has its own
format instead of Arrow's, because Arrow's memory pool never releases memory that a thread has used.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.errors import RunFileError
from prefect_parallel_run.models import MiniBatch

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
_LENGTHS = struct.Struct("<QQ")  #: header of every group: its compressed and uncompressed size, bytes


class PlanSummary(NamedTuple):
    """Totals, hashes and warnings of a plan."""

    mini_batches: int
    items: int
    size: int  #: bytes of source
    sha256: str  #: hash of the content: input, items and work of every mini-batch
    kind: str  #: file, tabular
    inputs_sha256: str  #: hash of the listed files: path, size and version of each
    notes: tuple[str, ...] = ()  #: warnings about the inputs


def content(input_name: str, items: int, work: str) -> str:
    """Return the fields that identify a mini-batch across plans, as one line of ASCII."""
    return f"{input_name}\t{items}\t{work}\n"


class Group(NamedTuple):
    """Consecutive mini-batches of a plan, as columns."""

    inputs: list[str]  #: names
    items: list[int]
    sizes: list[int]  #: bytes of source
    works: list[str]


class PlanReader:
    """Reads mini-batches in groups, decoded on demand; the most recently used groups are cached."""

    def __init__(self, starts: list[int]) -> None:
        self._starts = starts  #: first mini-batch of every group, and the total number
        self._cache: dict[int, Group] = {}

    def works(self, start: int, stop: int) -> list[str]:
        """Return the work strings of mini-batches *start* to *stop*."""
        return [work for number, part in self._groups(start, stop) for work in self._group(number).works[part]]

    def items(self, start: int, stop: int) -> list[int]:
        """Return the numbers of items of mini-batches *start* to *stop*."""
        return [items for number, part in self._groups(start, stop) for items in self._group(number).items[part]]

    def mini_batches(self, start: int = 0, stop: int | None = None) -> Iterator[MiniBatch]:
        """Yield mini-batches *start* to *stop*, by default all; memory stays flat."""
        stop = self._starts[-1] if stop is None else stop
        for number, part in self._groups(start, stop):
            fields = [field[part] for field in self._group(number)]
            yield from map(MiniBatch._make, zip(range(start, start + len(fields[0])), *fields, strict=True))
            start += len(fields[0])

    def typical_bytes(self) -> int:
        """Return the approximate size of a work string in bytes, estimated from the first group."""
        works = self.works(0, min(self._starts[1], 1_000)) if len(self._starts) > 1 else []
        return max(sum(map(len, works)) // max(len(works), 1), 1)

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield each group that contains mini-batches *start* to *stop*, with their slice in it."""
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            begin, end = self._starts[number], self._starts[number + 1]
            yield number, slice(start - begin, min(stop, end) - begin)
            number, start = number + 1, end

    def _group(self, number: int) -> Group:
        group = self._cache.pop(number, None)
        if group is None:
            group = self._load(number)
        self._cache[number] = group  # now the newest
        while len(self._cache) > _CACHED_GROUPS:
            del self._cache[next(iter(self._cache))]
        return group

    @abstractmethod
    def _load(self, number: int) -> Group:
        """Read and decode a group."""


class Plan(PlanReader):
    """A complete plan in plan.parquet; opening and reading it raise RunFileError when the file is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            with path.open("rb") as source, pq.ParquetFile(source) as file:
                self._metadata = file.metadata  # parsed once: a plan of millions has thousands of groups
                columns = file.schema_arrow.names
            summary = json.loads(self._metadata.metadata[SUMMARY])
            self.summary = PlanSummary(**{**summary, "notes": tuple(summary.get("notes", ()))})
            starts = [0]
            for number in range(self._metadata.num_row_groups):
                starts.append(starts[-1] + self._metadata.row_group(number).num_rows)
            if columns != SCHEMA.names or starts[-1] != self.summary.mini_batches or sorted(starts) != starts:
                raise ValueError("wrong columns, or wrong number of mini-batches")
        super().__init__(starts)

    def all_items(self) -> Iterator[int]:
        """Yield the number of items of every mini-batch, without decoding other columns."""
        for number in range(len(self._starts) - 1):
            (items,) = self._columns(number, "items")
            yield from items

    def content_sha256(self, check_cancelled: CheckCancelled = never_cancelled) -> str:
        """Compute the hash of the content; *check_cancelled* is called periodically and may raise to stop."""
        total = hashlib.sha256()
        for number in range(len(self._starts) - 1):
            check_cancelled()
            group = self._columns(number, "input", "items", "work")
            with self._reading():
                total.update("".join([content(*row) for row in zip(*group, strict=True)]).encode("ascii"))
        return total.hexdigest()

    def problem(self, identity: Mapping[str, object], check_cancelled: CheckCancelled = never_cancelled) -> str:
        """Return how the plan differs from the one that a run was started with; "" when it does not.

        Args:
            identity: The run's fingerprint in run.json; it lacks the plan's hash when planning had not finished.
            check_cancelled: Called periodically; raises when the run is cancelled.
        """
        recorded = identity.get("plan_sha256"), identity.get("inputs_sha256")
        actual = self.summary.sha256, self.summary.inputs_sha256
        if any(then not in (None, now) for then, now in zip(recorded, actual, strict=True)):
            return "is not the plan that the run was started with"
        if self.content_sha256(check_cancelled) != self.summary.sha256 or sum(self.all_items()) != self.summary.items:
            return "was altered since the run was planned: the checksum of its mini-batches is wrong"
        return ""

    def _load(self, number: int) -> Group:
        return Group(*self._columns(number, *SCHEMA.names[1:]))

    def _columns(self, number: int, *names: str) -> list[list[Any]]:
        """Read and decode some columns of a group."""
        # pre_buffer would read in threads of Arrow that use Python's file; one that still runs when the interpreter exits would
        # abort the process.
        with (
            self._reading(),
            self._path.open("rb") as source,
            pq.ParquetFile(source, metadata=self._metadata, pre_buffer=False) as file,
        ):
            table = file.read_row_group(number, columns=names, use_threads=False)  # each decoding thread would keep memory
            columns = [table.column(name).to_pylist() for name in names]
            count = self._starts[number + 1] - self._starts[number]
            if any(len(column) != count or None in column for column in columns):
                raise ValueError(f"row group {number} lacks mini-batches")
            return columns

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Convert all errors that reading a damaged file may raise to RunFileError."""
        try:
            yield
        except (OSError, pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RunFileError(str(self._path), f"cannot be read as a plan: {reason}") from error


class Spool(PlanReader):
    """An incomplete plan: one thread appends groups while another reads the existing ones."""

    def __init__(self, path: Path) -> None:
        super().__init__([0])
        self._offsets: list[tuple[int, int, int]] = []  #: for every group: start, stop, uncompressed bytes
        self._file = path.open("w+b")

    def append(self, group: Group) -> None:
        """Append a group, which can be read immediately."""
        text = _text(group)
        packed = pa.compress(text, codec="zstd", asbytes=True, memory_pool=pa.system_memory_pool())
        start = self._file.tell() + _LENGTHS.size
        self._file.write(_LENGTHS.pack(len(packed), len(text)) + packed)
        self._file.flush()
        self._offsets.append((start, start + len(packed), len(text)))
        self._starts.append(self._starts[-1] + len(group.works))  # last: readers rely on it

    def close(self) -> None:
        """Close the file; the groups can still be read by ``spooled``."""
        self._file.close()

    def _load(self, number: int) -> Group:
        start, stop, length = self._offsets[number]
        return _group(os.pread(self._file.fileno(), stop - start, start), length)


def planned_mini_batches(path: Path, spool: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches of the plan in *path*, or those in its *spool* if planning did not finish."""
    return Plan(path).mini_batches() if path.exists() else spooled(spool)


def spooled(path: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches in the spool of an incomplete plan."""
    count = 0
    if not path.exists():  # the run ended before planning started
        return
    with path.open("rb") as source:
        while len(lengths := source.read(_LENGTHS.size)) == _LENGTHS.size:
            stored, length = _LENGTHS.unpack(lengths)
            if stored > os.fstat(source.fileno()).st_size:  # truncated, or written by an earlier version
                return
            try:
                group = _group(source.read(stored), length)
                numbered = zip(range(count, count + len(group.works)), *group, strict=True)
                mini_batches = list(map(MiniBatch._make, numbered))
            except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError):
                return  # the process died while writing the last group, which was not scheduled; or the file is damaged
            yield from mini_batches
            count += len(group.works)


def _text(group: Group) -> bytes:
    """Serialize a group: a line of JSON with all other fields, and one line per work string, which contains no line ends."""
    return "\n".join([json.dumps(group[:3]), *group.works]).encode("ascii")


def _group(packed: bytes, length: int) -> Group:
    text = pa.decompress(packed, length, codec="zstd", asbytes=True, memory_pool=pa.system_memory_pool())
    head, *works = text.decode("ascii").split("\n")
    inputs, items, sizes = json.loads(head)
    return Group(inputs, items, sizes, works)
