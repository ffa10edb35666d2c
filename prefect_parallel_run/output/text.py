"""Writes a text result of any format: the header of the first mini-batch that has one, then all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.column_order import Dialect, reorder_columns
from prefect_parallel_run.output.parts import PartRange, Parts

_MAX_ADJACENT = 1_024  #: ranges in one read


def write_text(
    ranges: Iterable[PartRange], parts: Parts, dialect: Dialect, write: Callable[[bytes | memoryview], object]
) -> int:
    """Pass one header and the rows of *ranges*, in order, to *write*; return the number of rows.

    Rows with another column order are reordered to match the header.

    Raises:
        RowsDifferError: The columns of a mini-batch differ from the header; names column and mini-batches.
        OutputError: A part differs from the ledger.
    """
    rows = header_of = 0
    header: bytes | None = None
    for group in _adjacent(ranges):
        rows += sum(part_range.rows for part_range in group)
        first = group[0]
        own_header = parts.head(first) if first.header else header
        if header is None and own_header is not None:
            write(own_header)
            header, header_of = own_header, first.mini_batch
        if own_header == header:
            parts.copy(group, write, first.header)
        else:
            write(_reordered(first, header or b"", header_of, parts, dialect))
    return rows


def _reordered(part_range: PartRange, expected: bytes, header_of: int, parts: Parts, dialect: Dialect) -> bytes:
    """Return the rows of a range in the column order of *expected*; raises RowsDifferError if the columns differ."""
    data = parts.read(part_range)
    header, rows = data[: part_range.header], data[part_range.header :]
    ordered_rows = reorder_columns(rows, header, expected, dialect)
    if ordered_rows is None:
        reason = f"mini-batch {part_range.mini_batch} {_difference(expected, header)}"
        raise RowsDifferError("", reason, part_range.mini_batch, other=header_of)
    return ordered_rows


def _adjacent(ranges: Iterable[PartRange]) -> Iterator[list[PartRange]]:
    """Yield groups of ranges that are adjacent in one part, so that one read covers many small ones.

    A range with a header forms its own group: its header must be compared and skipped.
    """
    group: list[PartRange] = []
    for part_range in ranges:
        if group and not (
            part_range.part is group[-1].part  # one object per part: part_ranges
            and part_range.offset == group[-1].offset + group[-1].length
            and not part_range.header
            and not group[0].header
            and len(group) < _MAX_ADJACENT
        ):
            yield group
            group = []
        group.append(part_range)
    if group:
        yield group


def _difference(header: bytes, own_header: bytes) -> str:
    """Return how the columns of a mini-batch differ from the header."""
    before, now = header.decode("utf-8", "replace").rstrip("\n"), own_header.decode("utf-8", "replace").rstrip("\n")
    for number, (expected, actual) in enumerate(zip(before.split(","), now.split(","), strict=False), 1):
        if expected != actual:
            return f"has column {actual!r} where earlier mini-batches have {expected!r} (column {number})"
    return f"has the columns {now!r} where earlier mini-batches have {before!r}"
