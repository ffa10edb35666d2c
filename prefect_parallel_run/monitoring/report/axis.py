"""The time axis of a report: the executions of a run, without the pauses between them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 240  #: of equal length on every axis; divisible by many numbers, so that neighbors can be merged
_MIN_LENGTH = 0.001  #: s
_MIN_PAUSE = 10.0  #: s; shorter pauses are not cut out
_MIN_PAUSE_SHARE = 0.02  #: share of the active time; shorter pauses are not cut out


class Pause(NamedTuple):
    """A period in which no process executed the run."""

    position: float  #: s on the axis
    seconds: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps Unix times to positions: seconds of execution since the start of the run."""

    spans: tuple[tuple[float, float], ...]  #: Unix times, in order, without overlap; at least one

    @classmethod
    def over(cls, intervals: Iterable[tuple[float, float]]) -> Axis | None:
        """Return an axis that covers all *intervals* (Unix times); None without any.

        >>> Axis.over([(100, 160), (150, 200), (5000, 5100)])
        Axis(spans=((100, 200), (5000, 5100)))
        """
        merged = _merged(sorted(intervals), 0.0)
        if not merged:
            return None
        active = sum(stop - start for start, stop in merged)
        spans = _merged(merged, max(_MIN_PAUSE, _MIN_PAUSE_SHARE * active))
        if active < _MIN_LENGTH:
            spans[-1] = (spans[-1][0], spans[-1][1] + _MIN_LENGTH)  # a single moment still needs some width
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
        """Return the length of the axis."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def bin_seconds(self) -> float:
        """Return the length of a bin."""
        return self.seconds / BINS

    @property
    def pauses(self) -> list[Pause]:
        """Return the pauses that were cut out."""
        pauses, position = [], 0.0
        for (start, stop), (following, _) in zip(self.spans, self.spans[1:], strict=False):
            position += stop - start
            pauses.append(Pause(position, following - stop))
        return pauses

    def positions(self, times: npt.ArrayLike) -> Floats:
        """Return the positions of Unix *times*: clamped to the ends; a time in a pause maps to the cut."""
        known, positions, position = [], [], 0.0
        for start, stop in self.spans:
            known += [start, stop]
            positions += [position, position + stop - start]
            position += stop - start
        return np.interp(np.asarray(times, dtype=np.float64), known, positions)

    def position(self, time: float) -> float:
        """Return the position of one Unix time."""
        return float(self.positions([time])[0])

    def bins(self, positions: Floats) -> npt.NDArray[np.int64]:
        """Return the bins of *positions*; the right end belongs to the last bin."""
        return np.clip((positions / self.bin_seconds).astype(np.int64), 0, BINS - 1)


def spread(axis: Axis, lanes: npt.NDArray[np.int64], starts: Floats, stops: Floats, count: int) -> Floats:
    """Return the seconds of each bin of each lane that intervals cover; the sum is the length of all intervals.

    Args:
        axis: Axis of the positions.
        lanes: Lane of each interval, from 0.
        starts: Position at which each interval starts.
        stops: Position at which each interval ends.
        count: Number of lanes.

    Returns:
        Shape (count, BINS).
    """
    width, size = axis.bin_seconds, count * BINS
    first, last = axis.bins(starts), axis.bins(stops)
    offset = lanes * BINS
    is_inside = first == last
    in_first = np.where(is_inside, stops - starts, (first + 1) * width - starts)
    in_last = np.where(is_inside, 0.0, stops - last * width)
    seconds = np.bincount(offset + first, in_first, size).astype(np.float64)
    seconds += np.bincount(offset + last, in_last, size)
    spanning = ~is_inside
    change = np.bincount((offset + first)[spanning] + 1, minlength=size + 1).astype(np.float64)
    change -= np.bincount((offset + last)[spanning], minlength=size + 1)
    full = np.cumsum(change)[:size]  # intervals that cover the whole bin
    return (seconds + full * width).reshape(count, BINS)


def _merged(intervals: Iterable[tuple[float, float]], tolerance: float) -> list[tuple[float, float]]:
    """Return sorted *intervals*, merged where they are at most *tolerance* s apart."""
    merged: list[tuple[float, float]] = []
    for start, stop in intervals:
        if merged and start <= merged[-1][1] + tolerance:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, max(start, stop)))
    return merged
