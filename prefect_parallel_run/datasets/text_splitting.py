"""Records gathered into spans of about the size of a mini-batch."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from prefect_parallel_run.datasets.record_ends import Records


class Span(NamedTuple):
    """Some records that follow each other."""

    start: int  #: in the text, bytes
    stop: int
    rows: int  #: records in it, blank lines left out
    first: int  #: number of its first record in the file, from 1


def split_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank, None when there is none, and the records behind it."""
    for part in parts:
        filled = part.filled.nonzero()[0]
        if len(filled):
            number = int(filled[0])
            begin = part.start if number == 0 else int(part.ends[number - 1])
            head = part.data[begin - part.start : int(part.ends[number]) - part.start]
            rest = part.behind(number + 1)
            return head, chain([rest] if len(rest.ends) else [], parts)
    return None, iter(())


def peek_head(parts: Iterator[Records]) -> tuple[bytes | None, Iterator[Records]]:
    """Return the first record that is not blank, None when there is none, and all records."""
    blank: list[Records] = []
    for part in parts:
        head, _ = split_head(iter([part]))
        if head is not None:
            return head, chain(blank, [part], parts)
        blank.append(part)
    return None, iter(blank)


def spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Yield spans of about *size* bytes, none without a record."""
    rows, first = 0, 1
    start = stop = None
    for part in parts:
        start = part.start if start is None else start
        at = 0  # records of this part that are behind us
        while at < len(part.ends):
            index = min(max(int(part.ends.searchsorted(start + size)), at), len(part.ends) - 1)
            rows += int(part.filled[at : index + 1].sum())
            stop, at = int(part.ends[index]), index + 1
            if stop - start >= size:
                if rows:
                    yield Span(start, stop, rows, first)
                start, first, rows = stop, first + rows, 0
    if rows and start is not None and stop is not None:
        yield Span(start, stop, rows, first)


def all_spans(parts: Iterator[Records], size: int) -> Iterator[Span]:
    """Yield the same once all *parts* have been gone through: 32 bytes are held for each meanwhile."""
    found = array("q")
    for span in spans(parts, size):
        found.extend(span)
    return (Span(*found[place : place + 4]) for place in range(0, len(found), 4))
