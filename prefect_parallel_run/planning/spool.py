"""A plan while it is still being made: what is planned so far, in a file from which leases are made and which outlives a crash.

The file holds one group of mini-batches after the other, compressed each by itself. Its format is our own, and not Arrow's:
what every lease is made from passes through here, and Arrow's memory pool never gives back what a thread has once used.
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

_LENGTHS = struct.Struct("<QQ")  #: in front of every group: its bytes as they are stored, and as they were before


class Spool(PlanReader):
    """A plan that is being made: one thread appends groups, another reads those that are there."""

    def __init__(self, path: Path) -> None:
        super().__init__([0])
        self._offsets: list[tuple[int, int, int]] = []  #: of every group in the file: start, stop, bytes before
        self._file = path.open("w+b")

    def append(self, group: Group) -> None:
        """Add a group; it can be read from then on."""
        text = _text(group)
        packed = pa.compress(text, codec="zstd", asbytes=True, memory_pool=pa.system_memory_pool())
        start = self._file.tell() + _LENGTHS.size
        self._file.write(_LENGTHS.pack(len(packed), len(text)) + packed)
        self._file.flush()
        self._offsets.append((start, start + len(packed), len(text)))
        self._starts.append(self._starts[-1] + len(group.works))  # last: who reads goes by it

    def close(self) -> None:
        """Close the file; the groups can still be read by ``spooled``."""
        self._file.close()

    def _load(self, number: int) -> Group:
        start, stop, length = self._offsets[number]
        return _group(os.pread(self._file.fileno(), stop - start, start), length)


def planned_in(path: Path, spool: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches of the plan in *path* or, where it was never finished, as far as its *spool* goes."""
    return Plan.open(path).mini_batches() if path.exists() else spooled(spool)


def spooled(path: Path) -> Iterator[MiniBatch]:
    """Yield the mini-batches of a plan that was never finished, as far as its spool goes."""
    count = 0
    if not path.exists():  # the run ended before anything was planned
        return
    with path.open("rb") as source:
        while len(lengths := source.read(_LENGTHS.size)) == _LENGTHS.size:
            stored, length = _LENGTHS.unpack(lengths)
            if stored > os.fstat(source.fileno()).st_size:  # cut off, or a spool that an earlier version wrote
                return
            try:
                group = _group(source.read(stored), length)
                numbered = zip(range(count, count + len(group.works)), *group, strict=True)
                mini_batches = list(map(MiniBatch._make, numbered))
            except (OSError, pa.ArrowException, ValueError, TypeError, OverflowError):
                return  # the process ended while it wrote the last group, nothing of which was handed out; or it is damaged
            yield from mini_batches
            count += len(group.works)


def _text(group: Group) -> bytes:
    """Return a group as lines: the work texts, which have no line ends in them, below all the rest."""
    return "\n".join([json.dumps(group[:3]), *group.works]).encode("ascii")


def _group(packed: bytes, length: int) -> Group:
    text = pa.decompress(packed, length, codec="zstd", asbytes=True, memory_pool=pa.system_memory_pool())
    rest, *works = text.decode("ascii").split("\n")
    inputs, items, sizes = json.loads(rest)
    return Group(inputs, items, sizes, works)
