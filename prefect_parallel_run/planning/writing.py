"""Planning: the datasets of a step are cut into mini-batches, which are numbered and frozen, whole or while the run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.planning.plan import SCHEMA, SUMMARY, Group, PlanSummary, content
from prefect_parallel_run.storage.listing import Listing

_GROUP_ROWS = 1_024  #: mini-batches per row group at most
_GROUP_BYTES = 2 << 20  #: of work texts per row group, about; several copies are held while it is written
_HEARTBEAT_EVERY = 64  #: mini-batches
_POOL = pa.system_memory_pool()  # Arrow's own keeps several times what a plan needs for every thread that has used it


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


class Planning:
    """How the datasets of a step are cut.

    Args:
        datasets: Named and of one kind.
        mini_batch_size: Files, or approximate bytes of source.
        partition_keys: One mini-batch per combination of these; the size then does not matter.
        store: Folder for tables that have to be written anew, partitioned.
    """

    def __init__(
        self, datasets: Sequence[Dataset], mini_batch_size: int, partition_keys: Sequence[str] | None, store: Path
    ) -> None:
        self._datasets, self._size, self._keys, self._store = datasets, mini_batch_size, partition_keys, store

    def write(self, writer: PlanWriter, check_cancelled: Callable[[], None] = lambda: None) -> PlanSummary:
        """Write the plan, whole or not at all; memory stays flat.

        Args:
            writer: Takes it.
            check_cancelled: Called now and then; raises to stop.

        Raises:
            InputError: An input is missing, unreadable, or has no items and does not allow that.
            OutputError: The plan cannot be written.
        """
        with writer:
            notes: list[str] = []
            listings = [self._add(dataset, writer, check_cancelled, notes.append) for dataset in self._datasets]
            return writer.finish(self._datasets[0].kind, _together(listings), tuple(notes))

    def _add(
        self, dataset: Dataset, writer: PlanWriter, check_cancelled: Callable[[], None], tell: Callable[[str], None]
    ) -> Listing:
        before, listing = writer.items, dataset.listing(check_cancelled)
        if self._keys is None:
            cuts = dataset.cuts(self._size, listing, tell)
        else:
            cuts = dataset.partition_cuts(self._keys, self._store, listing, tell)
        for number, cut in enumerate(cuts):
            if number % _HEARTBEAT_EVERY == 0:
                check_cancelled()
            writer.add(str(dataset.name), cut)
        if writer.items == before and not dataset.allow_empty:
            words = "has no items; if that is right, allow it: allow_empty=True, on the command line --allow-empty"
            raise InputError(", ".join(dataset.paths), words)
        return listing


def write_plan(
    datasets: Sequence[Dataset],
    mini_batch_size: int,
    path: Path,
    partition_keys: Sequence[str] | None = None,
    store: Path | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> PlanSummary:
    """Write the plan of *datasets* to *path*; the arguments are those of Planning, its *store* by default beside the plan."""
    return Planning(datasets, mini_batch_size, partition_keys, store or path.parent).write(PlanWriter(path), check_cancelled)


def inputs_sha256(datasets: Sequence[Dataset], check_cancelled: Callable[[], None] = lambda: None) -> str:
    """Return a hash over path, size and version of all files of *datasets*, as they are now; equal to a plan's."""
    listings = [dataset.listing(check_cancelled) for dataset in datasets]
    for listing in listings:
        listing.exhaust()
    return _together(listings)


def _together(listings: Iterable[Listing]) -> str:
    return hashlib.sha256("".join(f"{listing.sha256}\n" for listing in listings).encode()).hexdigest()


class PlanWriter:
    """Streams mini-batches into a plan.parquet that is complete or absent.

    Args:
        path: Of the plan.
        grown: Given all mini-batches, some at a time, as soon as somebody asks or many have come together.
    """

    def __init__(self, path: Path, grown: Callable[[Group], None] = lambda _: None) -> None:
        self._path, self._grown = path, grown
        self._beside = path.with_name(f".{path.name}.tmp")
        self._hash = hashlib.sha256()
        self._group = Group([], [], [], [])
        self._held = self._told = 0
        self._count = self.items = self._size = 0
        self._lock = threading.Lock()
        self._is_closed = True

    def __enter__(self) -> PlanWriter:
        try:
            self._file = self._beside.open("wb")
        except OSError as error:
            raise self._unwritable(error) from error
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["input"],  # every work is another one
            write_statistics=False,  # would repeat whole works in the footer
            memory_pool=_POOL,
        )
        self._is_closed = False
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._lock, suppress(OSError):  # in place already, or a full disk; must not hide the first error
            self._is_closed = True
            self._writer.close()
            self._file.close()
            del self._writer  # it remembers every group that it wrote
        with suppress(OSError):
            self._beside.unlink()
        if isinstance(error, OSError):
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(str(self._path), f"cannot be written: {error.strerror or error}")

    def add(self, name: str, cut: PlannedBatch) -> None:
        """Append a mini-batch."""
        with self._lock:
            self._group.inputs.append(name)
            self._group.items.append(cut.items)
            self._group.sizes.append(cut.size)
            self._group.works.append(cut.work)
            self._count += 1
            self.items += cut.items
            self._size += cut.size
            self._held += len(cut.work)
            if len(self._group.works) >= _GROUP_ROWS or self._held >= _GROUP_BYTES:
                self._write()

    def flush(self) -> None:
        """Tell of what there is; may be called from another thread, which would like to have it."""
        with self._lock:
            self._tell()

    def finish(self, kind: str, inputs: str, notes: tuple[str, ...] = ()) -> PlanSummary:
        """Write what is left, and the summary; return it."""
        with self._lock:
            self._write()
        summary = PlanSummary(self._count, self.items, self._size, self._hash.hexdigest(), kind, inputs, notes)
        self._writer.add_key_value_metadata({SUMMARY: json.dumps(summary._asdict()).encode()})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._beside.replace(self._path)
        return summary

    def _tell(self) -> None:
        group, told = self._group, self._told
        fresh = Group(group.inputs[told:], group.items[told:], group.sizes[told:], group.works[told:])
        if fresh.works and not self._is_closed:
            self._grown(fresh)
            self._told = len(group.works)

    def _write(self) -> None:
        """Write the group; by one thread only, as Arrow keeps memory for every thread that writes."""
        self._tell()
        group = self._group
        if group.works:
            self._hash.update("".join(map(content, group.inputs, group.items, group.works)).encode("ascii"))
            numbers = range(self._count - len(group.works), self._count)
            columns = [
                _integers(numbers),
                _texts(group.inputs),
                *map(_integers, (group.items, group.sizes)),
                _texts(group.works),
            ]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        self._group, self._held, self._told = Group([], [], [], []), 0, 0


def _integers(values: Sequence[int]) -> pa.Array:
    """Return *values* as Arrow's; ``pa.array`` would import pandas, which a file step never needs."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def _texts(values: Sequence[str]) -> pa.Array:
    """Return *values*, which are ASCII, as Arrow's."""
    ends = array("i", accumulate(map(len, values), initial=0))
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, pa.py_buffer(ends), pa.py_buffer("".join(values).encode("ascii"))]
    )
