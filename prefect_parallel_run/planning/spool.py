"""The mini-batches planned so far, in a file that leases are created from and that survives a crash.

The file is a sequence of groups of mini-batches, each compressed separately. It has its own format instead of Arrow's: the
content of every lease is read from here, and Arrow's memory pool never releases memory that a thread has used.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Group, Plan, PlanReader

_LENGTHS = struct.Struct("<QQ")  #: header of every group: its compressed and uncompressed size, bytes


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
    return Plan.open(path).mini_batches() if path.exists() else spooled(spool)


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
    """Serialise a group: a line of JSON with all other fields, and one line per work string, which contains no line ends."""
    return "\n".join([json.dumps(group[:3]), *group.works]).encode("ascii")


def _group(packed: bytes, length: int) -> Group:
    text = pa.decompress(packed, length, codec="zstd", asbytes=True, memory_pool=pa.system_memory_pool())
    head, *works = text.decode("ascii").split("\n")
    inputs, items, sizes = json.loads(head)
    return Group(inputs, items, sizes, works)
