"""Groups records into spans of about the size of a mini-batch."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from prefect_parallel_run.datasets.record_ends import Records


class Span(NamedTuple):
    """Consecutive records."""

    start: int  #: offset in the text, bytes
    stop: int
    rows: int  #: number of records, without blank lines
    first: int  #: number of the first record in the file, from 1


def split_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank (None without one), and the records after it."""
    for part in parts:
        filled = part.filled.nonzero()[0]
        if len(filled):
            number = int(filled[0])
            begin = part.start if number == 0 else int(part.ends[number - 1])
            head = part.data[begin - part.start : int(part.ends[number]) - part.start]
            rest = part.after(number + 1)
            return head, chain([rest] if len(rest.ends) else [], parts)
    return None, iter(())


def peek_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank (None without one), and all records."""
    blank: list[Records] = []
    for part in parts:
        head, _ = split_head(iter([part]))
        if head is not None:
            return head, chain(blank, [part], parts)
        blank.append(part)
    return None, iter(blank)


def spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Yield spans of about *size* bytes, each with at least one record."""
    rows, first = 0, 1
    start = stop = None
    for part in parts:
        start = part.start if start is None else start
        done = 0  # records of this part that are in a span
        while done < len(part.ends):
            index = min(max(int(part.ends.searchsorted(start + size)), done), len(part.ends) - 1)
            rows += int(part.filled[done : index + 1].sum())
            stop, done = int(part.ends[index]), index + 1
            if stop - start >= size:
                if rows:
                    yield Span(start, stop, rows, first)
                start, first, rows = stop, first + rows, 0
    if rows and start is not None and stop is not None:
        yield Span(start, stop, rows, first)


def all_spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Return the spans of all *parts* as an iterator, after consuming *parts*; a span takes 32 bytes of memory."""
    fields = array("q")
    for span in spans(parts, size):
        fields.extend(span)
    return (Span(*fields[index : index + 4]) for index in range(0, len(fields), 4))
