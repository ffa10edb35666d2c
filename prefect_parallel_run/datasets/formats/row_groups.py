"""Divides files with groups of rows (row groups, record batches, stripes); finds columns that nulls affect. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa

from prefect_parallel_run.child.row_groups import GROUPS
from prefect_parallel_run.child.table_types import extension_types
from prefect_parallel_run.datasets.formats.base import Piece


class Group(NamedTuple):
    """Rows that are decoded together."""

    number: int  #: in the file
    rows: int
    size: int  #: bytes


def pieces(kind: str, groups: Iterable[Group], size: int) -> Iterator[Piece]:
    """Yield pieces of about *size* bytes: large groups are split, small ones combined."""
    numbers: list[int] = []
    rows = total = 0
    for group in groups:
        if numbers and total + group.size > size:
            yield _piece(kind, numbers, 0, rows, total)
            numbers, rows, total = [], 0, 0
        if group.size > size and group.rows > 1:
            yield from _inside(kind, group, size)
        elif group.rows:
            numbers.append(group.number)
            rows, total = rows + group.rows, total + group.size
    if numbers:
        yield _piece(kind, numbers, 0, rows, total)


def _inside(kind: str, group: Group, size: int) -> Iterator[Piece]:
    count = min(-(-group.size // size), group.rows)
    for start, stop in pairwise(group.rows * number // count for number in range(count + 1)):
        yield _piece(kind, [group.number], start, stop, group.size * (stop - start) // group.rows)


def _piece(kind: str, numbers: list[int], start: int, stop: int, size: int) -> Piece:
    where = {GROUPS[kind]: numbers, "start": start, "stop": stop, "rows": stop - start}
    return Piece(stop - start, size, where)


def allocate_bytes(counts: Sequence[int], size: int) -> list[Group]:
    """Return groups of *counts* rows, with a file's *size* allocated in proportion to their rows.

    >>> allocate_bytes([1, 3], 100)
    [Group(number=0, rows=1, size=25), Group(number=1, rows=3, size=75)]
    """
    total = max(sum(counts), 1)
    return [Group(number, rows, size * rows // total) for number, rows in enumerate(counts)]


def changed_by_gaps(schema: pa.Schema) -> list[int]:
    """Return the indices of integer and boolean columns whose pandas type depends on nulls: not of pandas' nullable types."""
    nullable_types = extension_types(schema)
    return [
        index
        for index, field in enumerate(schema)
        if field.nullable
        and field.name not in nullable_types
        and (pa.types.is_integer(field.type) or pa.types.is_boolean(field.type))
    ]


def about_gaps(indices: Iterable[int]) -> dict[str, list[int]]:
    """Return the fields of a mini-batch's work for the columns at *indices*, which contain a null somewhere in the file."""
    nullable = sorted(indices)
    return {"nullable": nullable} if nullable else {}
