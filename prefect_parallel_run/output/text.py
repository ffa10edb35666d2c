"""Text results of any format: the header of the first mini-batch that has one, then all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.output.column_order import Dialect, reordered
from prefect_parallel_run.output.parts import PartRange, Parts

_MOST_TOGETHER = 1_024  #: ranges read at once


def write_text(
    ranges: Iterable[PartRange], parts: Parts, dialect: Dialect, write: Callable[[bytes | memoryview], object]
) -> int:
    """Pass the rows of *ranges*, in order, to *write*, with one header in front; return their number.

    Rows whose columns stand in another order than in the header get its order.

    Raises:
        RowsDifferError: A mini-batch has other columns than the header; names column and mini-batches.
        OutputError: A part is not what the ledger says.
    """
    rows = header_of = 0
    header: bytes | None = None
    for run in _runs(ranges):
        rows += sum(found.rows for found in run)
        first = run[0]
        own = parts.head(first) if first.header else header
        if header is None and own is not None:
            write(own)
            header, header_of = own, first.mini_batch
        if own == header:
            parts.copy(run, write, first.header)
        else:
            write(_reordered(first, header or b"", header_of, parts, dialect))
    return rows


def _reordered(found: PartRange, expected: bytes, header_of: int, parts: Parts, dialect: Dialect) -> bytes:
    """Return the rows of a range in the order of the header *expected*; raises RowsDifferError for other columns."""
    data = parts.read(found)
    header, rows = data[: found.header], data[found.header :]
    in_order = reordered(rows, header, expected, dialect)
    if in_order is None:
        words = f"mini-batch {found.mini_batch} {_difference(expected, header)}"
        raise RowsDifferError("", words, found.mini_batch, other=header_of)
    return in_order


def _runs(ranges: Iterable[PartRange]) -> Iterator[list[PartRange]]:
    """Yield ranges with neighbours in one part together, so that many small ones are read at once.

    A range with a header stands alone: its header has to be looked at and left out.
    """
    run: list[PartRange] = []
    for found in ranges:
        if run and not (
            found.part is run[-1].part  # one object per part: part_ranges
            and found.offset == run[-1].offset + run[-1].length
            and not found.header
            and not run[0].header
            and len(run) < _MOST_TOGETHER
        ):
            yield run
            run = []
        run.append(found)
    if run:
        yield run


def _difference(header: bytes, found: bytes) -> str:
    """Return in words how the columns of a mini-batch differ from those before."""
    before, now = header.decode("utf-8", "replace").rstrip("\n"), found.decode("utf-8", "replace").rstrip("\n")
    for number, (one, other) in enumerate(zip(before.split(","), now.split(","), strict=False), 1):
        if one != other:
            return f"has column {other!r} where the mini-batches before have {one!r} (column {number})"
    return f"has the columns {now!r} where the mini-batches before have {before!r}"
