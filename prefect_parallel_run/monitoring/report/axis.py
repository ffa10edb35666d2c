"""The time axis of a report: the time in which a run was driven, without the pauses between its drives. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 240  #: of equal length on every axis; divisible by many numbers, so that neighbours can be put together
_LEAST = 0.001  #: s
_SHORTEST_PAUSE = 10.0  #: s: shorter ones are drawn as they are
_PAUSE_SHARE = 0.02  #: of the whole, the same


class Pause(NamedTuple):
    """A time in which nobody drove the run."""

    place: float  #: s on the axis
    seconds: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps Unix times to seconds in which the run was driven, counted from its beginning."""

    spans: tuple[tuple[float, float], ...]  #: Unix times, in order, without overlap; at least one

    @classmethod
    def over(cls, intervals: Iterable[tuple[float, float]]) -> Axis | None:
        """Return an axis that has all of *intervals* (Unix times) on it; None without any.

        >>> Axis.over([(100, 160), (150, 200), (5000, 5100)])
        Axis(spans=((100, 200), (5000, 5100)))
        """
        merged = _merged(sorted(intervals), 0.0)
        if not merged:
            return None
        active = sum(stop - start for start, stop in merged)
        spans = _merged(merged, max(_SHORTEST_PAUSE, _PAUSE_SHARE * active))
        if active < _LEAST:
            spans[-1] = (spans[-1][0], spans[-1][1] + _LEAST)  # moments alone still need some width
        return cls(tuple(spans))

    @property
    def begins(self) -> float:
        """Return the Unix time at its left end."""
        return self.spans[0][0]

    @property
    def ends(self) -> float:
        """Return the Unix time at its right end."""
        return self.spans[-1][1]

    @property
    def seconds(self) -> float:
        """Return its length."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def bin_seconds(self) -> float:
        """Return the length of a bin."""
        return self.seconds / BINS

    @property
    def pauses(self) -> list[Pause]:
        """Return what was cut out."""
        found, place = [], 0.0
        for (start, stop), (following, _) in zip(self.spans, self.spans[1:], strict=False):
            place += stop - start
            found.append(Pause(place, following - stop))
        return found

    def places(self, times: npt.ArrayLike) -> Floats:
        """Return where Unix *times* lie, s from the left end; those outside at its ends, those in a pause where it was cut."""
        known, places, place = [], [], 0.0
        for start, stop in self.spans:
            known += [start, stop]
            places += [place, place + stop - start]
            place += stop - start
        return np.interp(np.asarray(times, dtype=np.float64), known, places)

    def place(self, time: float) -> float:
        """Return where one Unix time lies."""
        return float(self.places([time])[0])

    def bins(self, places: Floats) -> npt.NDArray[np.int64]:
        """Return the bins of *places*; the right end belongs to the last."""
        return np.clip((places / self.bin_seconds).astype(np.int64), 0, BINS - 1)


def spread(axis: Axis, lanes: npt.NDArray[np.int64], starts: Floats, stops: Floats, count: int) -> Floats:
    """Return the seconds that intervals take up in every bin of every lane; their sum is that of all intervals.

    Args:
        axis: Of the places.
        lanes: Of the intervals, from 0.
        starts: Places on the axis.
        stops: The same.
        count: Lanes.

    Returns:
        Shape (count, BINS).
    """
    width, size = axis.bin_seconds, count * BINS
    first, last = axis.bins(starts), axis.bins(stops)
    offset = lanes * BINS
    is_inside = first == last
    in_first = np.where(is_inside, stops - starts, (first + 1) * width - starts)
    in_last = np.where(is_inside, 0.0, stops - last * width)
    found = np.bincount(offset + first, in_first, size).astype(np.float64)
    found += np.bincount(offset + last, in_last, size)
    spanning = ~is_inside
    change = np.bincount((offset + first)[spanning] + 1, minlength=size + 1).astype(np.float64)
    change -= np.bincount((offset + last)[spanning], minlength=size + 1)
    full = np.cumsum(change)[:size]  # number of intervals that have their first bin before and their last behind
    return (found + full * width).reshape(count, BINS)


def _merged(intervals: Iterable[tuple[float, float]], tolerance: float) -> list[tuple[float, float]]:
    """Return sorted *intervals* with those put together that lie at most *tolerance* s apart."""
    merged: list[tuple[float, float]] = []
    for start, stop in intervals:
        if merged and start <= merged[-1][1] + tolerance:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, max(start, stop)))
    return merged
