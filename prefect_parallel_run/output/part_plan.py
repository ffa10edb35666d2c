"""Cuts the committed ranges of a run into the parts of its result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from prefect_parallel_run.runs.ledger import Place

MOST_RANGES = 100_000  #: ranges in a part, so that its description stays small
_MINI_BATCH = attrgetter("mini_batch")


def cut(places: Iterable[Place], most_bytes: int, header: int = 0) -> Iterator[list[Place]]:
    """Yield the ranges of every part, in order; one part without ranges if there are none.

    A part has whole mini-batches, of at most *most_bytes* with its header and of about MOST_RANGES ranges; a single mini-batch
    may be larger. The ranges of a mini-batch that was bisected stay together. Memory is bounded by one part.

    Args:
        places: Committed ranges, in mini-batch order.
        most_bytes: Size of a part as the processes have written its rows: of a Parquet or ORC file, before compression.
        header: Size of the header of every part, bytes. The headers of its ranges do not count: a part does not repeat them.
    """
    part: list[Place] = []
    size, is_first = header, True
    for _, group in groupby(places, _MINI_BATCH):
        ranges = list(group)
        added = sum(place.length - place.header for place in ranges)
        if part and (size + added > most_bytes or len(part) + len(ranges) > MOST_RANGES):
            yield part
            part, size, is_first = [], header, False
        part += ranges
        size += added
    if part or is_first:
        yield part
