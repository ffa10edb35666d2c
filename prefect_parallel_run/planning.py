"""The plan: every mini-batch of a run, numbered and frozen in plan.parquet before the first one begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.records import Cut, MiniBatch

_SCHEMA = pa.schema(
    [
        ("mini_batch", pa.int64()),
        ("input", pa.string()),
        ("items", pa.int64()),
        ("bytes", pa.int64()),
        ("work", pa.string()),
    ]
)
_GROUP_ROWS = 4_096  #: mini-batches per row group at most
_GROUP_BYTES = 8 << 20  #: of work texts per row group, about
_CHUNK = 256  #: mini-batches gathered before the group's size is looked at
_CACHED_GROUPS = 3
_SUMMARY = b"prefect_parallel_run"


class PlanSummary(NamedTuple):
    """What a plan holds."""

    mini_batches: int
    items: int
    size: int  #: bytes of source
    sha256: str  #: of the content: input, items and work of every mini-batch
    kind: str  #: file, tabular


def normalise_inputs(inputs: Iterable[Any]) -> list[Dataset]:
    """Return *inputs* as named datasets of one kind; a plain path, folder or glob is taken for files.

    Inputs without a name are called ``input_0``, ``input_1``, … by their place.

    Raises:
        InputError: There is none, they are of two kinds, or two have the same name.
    """
    datasets: list[Dataset] = []
    for number, given in enumerate(inputs):
        if given is None:
            raise InputError("None", "no input was given; pass inputs=…")
        if not isinstance(given, Dataset | str | os.PathLike):
            raise InputError(repr(given)[:200], "is no input; pass a FileDataset, a TabularDataset or a path")
        dataset = given if isinstance(given, Dataset) else FileDataset.from_files(given)
        datasets.append(dataset if dataset.name is not None else dataset.as_named_input(f"input_{number}"))
    if not datasets:
        raise InputError("[]", "no input was given; pass inputs=…")
    kinds = {dataset.kind for dataset in datasets}
    if len(kinds) > 1:
        found = ", ".join(f"{dataset.name}: {dataset.kind}" for dataset in datasets)
        raise InputError(found, "the inputs of a step are of one kind, files or tables")
    names = [str(dataset.name) for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise InputError(name, "two inputs have this name; names are unique over inputs and side inputs")
    return datasets


def write_plan(
    datasets: Sequence[Dataset],
    mini_batch_size: int,
    path: Path,
    partition_keys: Sequence[str] | None = None,
    store: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> PlanSummary:
    """Cut *datasets* into mini-batches and write the plan to *path*, whole or not at all; memory stays flat.

    Args:
        datasets: Named and of one kind.
        mini_batch_size: Files, or approximate bytes of source.
        path: Of plan.parquet.
        partition_keys: One mini-batch per combination of these; the size then does not matter.
        store: Folder for tables that have to be written anew, partitioned; by default beside *path*.
        heartbeat: Called now and then; raises to stop.

    Raises:
        InputError: An input is missing, unreadable, or has no items and does not allow that.
        OutputError: The plan cannot be written.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with _PlanWriter(beside) as writer:
            for dataset in datasets:
                before = writer.items
                if partition_keys is None:
                    cuts = dataset.cuts(mini_batch_size)
                else:
                    cuts = dataset.partition_cuts(partition_keys, store or path.parent)
                writer.add(str(dataset.name), cuts, heartbeat)
                if writer.items == before and not dataset.allow_empty:
                    words = "has no items; if that is right, make the dataset with allow_empty=True"
                    raise InputError(", ".join(dataset.paths), words)
            summary = writer.finish(datasets[0].kind)
        beside.replace(path)
    except OSError as error:
        raise OutputError(str(path), f"cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # in place already, or never made; must not hide the first error
            beside.unlink()
    return summary


def content(input_name: str, items: int, work: str) -> bytes:
    """Return what makes a mini-batch the same one in two plans, as one line."""
    return f"{input_name}\t{items}\t{work}\n".encode("ascii")


class _PlanWriter:
    """Streams mini-batches into a Parquet file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._rows: list[tuple[int, str, int, int, str]] = []
        self._held = 0
        self._count = self.items = self._size = 0

    def __enter__(self) -> _PlanWriter:
        self._file = self._path.open("wb")
        self._writer = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd")
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def add(self, name: str, cuts: Iterator[Cut], heartbeat: Callable[[], None]) -> None:
        """Append the mini-batches of one input."""
        while chunk := list(islice(cuts, _CHUNK)):
            heartbeat()
            texts = []
            for cut in chunk:
                self._rows.append((self._count, name, cut.items, cut.size, cut.work))
                self._count += 1
                self.items += cut.items
                self._size += cut.size
                texts.append(content(name, cut.items, cut.work))
            text = b"".join(texts)
            self._hash.update(text)
            self._held += len(text)
            if len(self._rows) >= _GROUP_ROWS or self._held >= _GROUP_BYTES:
                self._flush()

    def finish(self, kind: str) -> PlanSummary:
        """Write what is left, and the summary; return it."""
        self._flush()
        summary = PlanSummary(self._count, self.items, self._size, self._hash.hexdigest(), kind)
        self._writer.add_key_value_metadata({_SUMMARY: json.dumps(summary._asdict()).encode()})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        return summary

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*self._rows, strict=True), _SCHEMA, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
        self._rows, self._held = [], 0


class Plan:
    """A plan on disk; row groups are decoded as they are needed, and the last few are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as source, pq.ParquetFile(source) as file:
                metadata = file.metadata
        except (OSError, pa.ArrowException) as error:
            raise OutputError(str(path), f"is no plan that can be read: {error}") from error
        self.summary = PlanSummary(**json.loads(metadata.metadata[_SUMMARY]))
        self._starts = [0]  # first mini-batch of every row group, and the total
        for number in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(number).num_rows)
        self._cache: dict[int, pa.Table] = {}

    @classmethod
    def open(cls, path: Path) -> Plan:
        """Return the plan in *path*."""
        return cls(path)

    def works(self, start: int, stop: int) -> list[str]:
        """Return the work texts of mini-batches *start* to *stop*."""
        return self._column("work", start, stop)

    def items(self, start: int, stop: int) -> list[int]:
        """Return the items of mini-batches *start* to *stop*."""
        return self._column("items", start, stop)

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

    def mini_batches(self, start: int = 0, stop: int | None = None) -> Iterator[MiniBatch]:
        """Yield mini-batches *start* to *stop*, by default all; memory stays flat."""
        stop = self.summary.mini_batches if stop is None else stop
        for number, first, last in self._groups(start, stop):
            table = self._group(number).slice(first, last - first)
            columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
            yield from map(MiniBatch._make, zip(*columns, strict=True))

    def _column(self, name: str, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        for number, first, last in self._groups(start, stop):
            found += self._group(number).column(name).slice(first, last - first).to_pylist()
        return found

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield row group, and first and last row in it, of mini-batches *start* to *stop*."""
        for number, (begin, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            if begin < stop and start < end:
                yield number, max(start, begin) - begin, min(stop, end) - begin

    def _group(self, number: int) -> pa.Table:
        table = self._cache.pop(number, None)
        if table is None:
            with self._path.open("rb") as source, pq.ParquetFile(source) as file:
                table = file.read_row_group(number)
        self._cache[number] = table  # now the newest
        while len(self._cache) > _CACHED_GROUPS:
            del self._cache[next(iter(self._cache))]
        return table
