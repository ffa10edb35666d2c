"""Divides the datasets of a step into mini-batches and freezes them in the plan, before the run or in its background."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled, never_cancelled
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.planning.plan import SCHEMA, SUMMARY, Group, PlanSummary, Spool, content
from prefect_parallel_run.storage.listing import Listing

_FLUSH_EVERY = 0.1  #: s between flushes: a compromise between latency and the size of groups
_GROUP_ROWS = 1_024  #: maximum mini-batches per row group
_GROUP_BYTES = 2 << 20  #: approximate bytes of work strings per row group; writing one needs several copies in memory
_CHECK_EVERY = 64  #: mini-batches between two calls of check_cancelled
_POOL = pa.system_memory_pool()  # Arrow's own pool keeps several times the size of a plan for every thread that has used it


class Planner:
    """Writes a plan in the background; starts immediately.

    Every mini-batch is in the spool before ``take`` returns it. Once ``is_over`` is true, the complete plan file exists.
    """

    def __init__(self, planning: Planning, plan: Path, spool: Path) -> None:
        self.plan = Spool(spool)  #: the mini-batches planned so far
        self._path, self._spool = plan, spool
        self._next_flush = 0.0
        self._new: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._writer = PlanWriter(plan, self._append)
        self._work: Background[PlanSummary] = Background(
            "planning", lambda check_cancelled: planning.write(self._writer, check_cancelled)
        ).start()

    def is_over(self) -> bool:
        """True once planning has finished; raises its error."""
        return self._work.is_over()

    def summary(self) -> PlanSummary:
        """Wait for the end of planning and return the summary."""
        return self._work.wait()

    def take(self) -> list[list[int]]:
        """Return the numbers of items of the mini-batches planned since the last call, in order, one list per group."""
        if time.monotonic() >= self._next_flush:
            self._next_flush = time.monotonic() + _FLUSH_EVERY
            with wrap_disk_errors(self._path.parent):
                self._writer.flush()
        groups = []
        while not self._new.empty():
            groups.append(self._new.get())
        return groups

    def stop(self) -> None:
        """Stop planning; keep a complete plan, or else the spool."""
        self._work.stop()
        self.plan.close()
        if self._path.exists():
            with suppress(OSError):  # a leftover spool is harmless
                self._spool.unlink()

    def _append(self, group: Group) -> None:
        self.plan.append(group)
        self._new.put(group.items)


class Planning:
    """The rules by which the datasets of a step are divided into mini-batches.

    Args:
        datasets: Named datasets of one kind.
        mini_batch_size: Files, or approximate bytes of source.
        partition_keys: One mini-batch per combination of these; the size is ignored then.
        store: Folder for partitioned copies of tables.
        input_columns: Values of the items in front of the returned rows.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        mini_batch_size: int,
        partition_keys: Sequence[str] | None,
        store: Path,
        input_columns: Sequence[str] = (),
    ) -> None:
        self._datasets, self._size, self._keys, self._store = datasets, mini_batch_size, partition_keys, store
        self._input_columns = input_columns

    def write(self, writer: PlanWriter, check_cancelled: CheckCancelled = never_cancelled) -> PlanSummary:
        """Write the plan, all or nothing; memory stays flat.

        Args:
            writer: Receives the mini-batches.
            check_cancelled: Called periodically; raises when the run is cancelled.

        Raises:
            InputError: An input is missing, unreadable, or empty without allow_empty, or lacks one of the input columns.
            OutputError: The plan cannot be written.
        """
        with writer:
            notes: list[str] = []
            listings = [self._add(dataset, writer, check_cancelled, notes.append) for dataset in self._datasets]
            return writer.finish(self._datasets[0].kind, _together(listings), tuple(notes))

    def _add(
        self, dataset: Dataset, writer: PlanWriter, check_cancelled: CheckCancelled, warn: Callable[[str], None]
    ) -> Listing:
        """Write the mini-batches of *dataset*, and return its listing."""
        dataset = dataset.with_input_columns(self._input_columns)
        dataset.copy_rows(check_cancelled, self._keys or ())
        before, listing = writer.items, dataset.listing(check_cancelled)
        if self._keys is None:
            batches = dataset.cuts(self._size, listing, warn)
        else:
            batches = dataset.partition_cuts(self._keys, self._store, listing, warn)
        for number, batch in enumerate(batches):
            if number % _CHECK_EVERY == 0:
                check_cancelled()
            writer.add(str(dataset.name), batch)
        if writer.items == before and not dataset.allow_empty:
            message = "has no items; to accept that, set allow_empty=True, or --allow-empty on the command line"
            raise InputError(dataset.origin, message)
        return listing


def inputs_sha256(datasets: Sequence[Dataset], check_cancelled: CheckCancelled = never_cancelled) -> str:
    """Return a hash of path, size and version of all files of *datasets*; equals a plan's inputs_sha256 if nothing changed."""
    listings = [dataset.listing(check_cancelled) for dataset in datasets]
    for listing in listings:
        listing.exhaust()
    return _together(listings)


def _together(listings: Iterable[Listing]) -> str:
    return hashlib.sha256("".join(f"{listing.sha256}\n" for listing in listings).encode()).hexdigest()


class PlanWriter:
    """Streams mini-batches into a plan.parquet that is complete or absent.

    Args:
        path: Path of the plan.
        grown: Called with groups of new mini-batches, after ``flush`` or when a group is full.
    """

    def __init__(self, path: Path, grown: Callable[[Group], None] = lambda _: None) -> None:
        self._path, self._grown = path, grown
        self._hash = hashlib.sha256()
        self._group = Group([], [], [], [])
        self._group_bytes = self._reported = 0
        self._count = self.items = self._size = 0
        self._lock = threading.Lock()
        self._is_closed = True

    def __enter__(self) -> PlanWriter:
        with wrap_disk_errors(self._path):
            self._target = AtomicFile(self._path, sync=True)
        self._writer = pq.ParquetWriter(
            self._target.file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["input"],  # work strings are all different
            write_statistics=False,  # would repeat whole work strings in the footer
            memory_pool=_POOL,
        )
        self._is_closed = False
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._lock, suppress(OSError):  # already closed, or a full disk; must not hide the first error
            self._is_closed = True
            self._writer.close()
            del self._writer  # it keeps the metadata of every group
        self._target.discard()
        with wrap_disk_errors(self._path):
            if isinstance(error, OSError):
                raise error

    def add(self, name: str, batch: PlannedBatch) -> None:
        """Append a mini-batch."""
        with self._lock:
            self._group.inputs.append(name)
            self._group.items.append(batch.items)
            self._group.sizes.append(batch.size)
            self._group.works.append(batch.work)
            self._count += 1
            self.items += batch.items
            self._size += batch.size
            self._group_bytes += len(batch.work)
            if len(self._group.works) >= _GROUP_ROWS or self._group_bytes >= _GROUP_BYTES:
                self._write()

    def flush(self) -> None:
        """Report the mini-batches so far; may be called from another thread."""
        with self._lock:
            self._report()

    def finish(self, kind: str, inputs: str, notes: tuple[str, ...] = ()) -> PlanSummary:
        """Write the last group and the summary, and return the summary."""
        with self._lock:
            self._write()
        summary = PlanSummary(self._count, self.items, self._size, self._hash.hexdigest(), kind, inputs, notes)
        self._writer.add_key_value_metadata({SUMMARY: json.dumps(summary._asdict()).encode()})
        self._writer.close()
        self._target.commit()
        return summary

    def _report(self) -> None:
        group, start = self._group, self._reported
        new = Group(group.inputs[start:], group.items[start:], group.sizes[start:], group.works[start:])
        if new.works and not self._is_closed:
            self._grown(new)
            self._reported = len(group.works)

    def _write(self) -> None:
        """Write the group; call it from one thread only, because Arrow keeps memory for every thread that writes."""
        self._report()
        group = self._group
        if group.works:
            self._hash.update("".join(map(content, group.inputs, group.items, group.works)).encode("ascii"))
            numbers, inputs = _integers(range(self._count - len(group.works), self._count)), _strings(group.inputs)
            columns = [numbers, inputs, *map(_integers, (group.items, group.sizes)), _strings(group.works)]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        self._group, self._group_bytes, self._reported = Group([], [], [], []), 0, 0


def _integers(values: Sequence[int]) -> pa.Array:
    """Return an Arrow array of *values*; ``pa.array`` would import pandas, which a file step does not need."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def _strings(values: Sequence[str]) -> pa.Array:
    """Return an Arrow array of *values*, which must be ASCII."""
    ends = array("i", accumulate(map(len, values), initial=0))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer("".join(values).encode("ascii"))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)
