"""Every try of a run, read once and put into bins: of time for each lane, of duration for the whole. Memory stays flat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats, spread
from prefect_parallel_run.monitoring.report.lanes import Lanes, Worked
from prefect_parallel_run.runs.ledger import Ledger

Counts = npt.NDArray[np.int64]
FATAL = ("timed_out", "out_of_memory", "died", "lost")  #: outcomes with which a process ended
MOST_SEGMENTS = 2_500  #: tries that are drawn one by one
_MOST_DRIVES = 100  #: that are told apart
_BLOCK = 5_000  #: tries at a time
_FINEST, _PER_DECADE, _DECADES = -5, 100, 12  #: bins of durations: from 10 µs, each 2.3 % longer than the one before
_SOURCE = (
    "(SELECT mini_batch, attempt, outcome, node, pid, started, seconds, 0 AS piece FROM attempts"
    " UNION ALL SELECT mini_batch, start, outcome, node, pid, started, seconds, stop - start FROM pieces)"
)
_TOTAL = "SELECT (SELECT COUNT(*) FROM attempts) + (SELECT COUNT(*) FROM pieces)"
_DATED = "started > 0 AND seconds IS NOT NULL"


class Segment(NamedTuple):
    """One try on the timeline."""

    lane: int
    begins: float  #: place on the axis, s
    seconds: float
    mini_batch: int
    attempt: int  #: of a piece: the first of its items
    outcome: str
    pid: int
    piece: int  #: items, when only some of the mini-batch's were tried; else 0


@dataclass(slots=True)
class Tries:
    """Tries in bins: each dated one is in one of ``succeeded`` or ``failed`` and in one of ``durations``."""

    busy: Floats  #: s per lane and bin; sums up to what all took
    succeeded: Counts  #: tries that ended well, per lane and bin
    failed: Counts
    durations: Counts  #: shape (2, …): of tries that succeeded, that failed
    fatal: Counter[tuple[int, int, str]] = field(default_factory=Counter)  #: by lane, bin, outcome
    outcomes: Counter[str] = field(default_factory=Counter)
    segments: list[Segment] | None = None  #: None: too many
    undated: int = 0  #: tries of which nobody knows when they were
    shortest: float = 0.0  #: s, of those that succeeded
    longest: float = 0.0  #: s, the same

    @property
    def dated(self) -> int:
        """Return the tries that are on the timeline."""
        return int(self.succeeded.sum() + self.failed.sum())


def worked(ledger: Ledger, begins: Sequence[float] = ()) -> list[Worked]:
    """Return what every pid of every node did, and when; *begins* are the Unix times of drives, which share no process."""
    known = begins[-_MOST_DRIVES:]
    drive = f", {' + '.join('(started >= ?)' for _ in known)}" if known else ""  # a pid may come again in a later one
    rows = ledger.rows(
        "SELECT COALESCE(node, ''), COALESCE(pid, 0), COUNT(*), SUM(outcome <> 'succeeded'), MIN(started),"  # noqa: S608  ours
        f" MAX(started + seconds) FROM {_SOURCE} WHERE {_DATED} GROUP BY 1, 2{drive}",
        *known,
    )
    return [Worked(*row) for row in rows]


def read_tries(ledger: Ledger, axis: Axis | None, lanes: Lanes, count: int, check_cancelled: Callable[[], None]) -> Tries:
    """Return the tries of a run.

    Args:
        ledger: Of the run.
        axis: Of time; has all dated tries on it; None without any.
        lanes: Have a place for each.
        count: Dated tries; up to MOST_SEGMENTS they are kept one by one.
        check_cancelled: Called now and then; raises to stop.
    """
    shape = (len(lanes.lanes), BINS)
    tries = Tries(
        busy=np.zeros(shape),
        succeeded=np.zeros(shape, dtype=np.int64),
        failed=np.zeros(shape, dtype=np.int64),
        durations=np.zeros((2, _PER_DECADE * _DECADES), dtype=np.int64),
        segments=[] if count <= MOST_SEGMENTS else None,
    )
    tries.undated = int(next(ledger.rows(_TOTAL))[0]) - count
    if axis is None:
        return tries
    sure = lanes.sure()
    for block in _blocks(ledger):
        check_cancelled()
        _take_in(tries, block, axis, lanes, sure)
    return tries


def _blocks(ledger: Ledger) -> Iterator[list[tuple[Any, ...]]]:
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), COALESCE(pid, 0), started, seconds, piece"  # noqa: S608  ours
        f" FROM {_SOURCE} WHERE {_DATED}"
    )
    block: list[tuple[Any, ...]] = []
    for row in ledger.rows(query):
        block.append(row)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _take_in(tries: Tries, block: list[tuple[Any, ...]], axis: Axis, lanes: Lanes, sure: Mapping[tuple[str, int], int]) -> None:
    _, _, outcomes, nodes, pids, started, seconds, _ = zip(*block, strict=True)
    keys = zip(nodes, pids, started, strict=True)
    found = [sure[node, pid] if (node, pid) in sure else lanes.of(node, pid, at) for node, pid, at in keys]
    lane = np.asarray(found, dtype=np.int64)
    begins, lasted = np.asarray(started, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    starts, stops = axis.places(begins), axis.places(begins + lasted)
    is_good = np.asarray([outcome == "succeeded" for outcome in outcomes])
    tries.busy += spread(axis, lane, starts, stops, len(lanes.lanes))
    ends = lane * BINS + axis.bins(stops)
    tries.succeeded += _counts(ends[is_good], tries.succeeded.shape)
    tries.failed += _counts(ends[~is_good], tries.failed.shape)
    _take_in_durations(tries, lasted, is_good)
    tries.outcomes.update(outcomes)
    for place in np.flatnonzero(~is_good):
        if outcomes[place] in FATAL:
            tries.fatal[int(lane[place]), int(ends[place] % BINS), outcomes[place]] += 1
    if tries.segments is not None:
        for row, at, start, stop in zip(block, found, starts, stops, strict=True):
            segment = Segment(at, float(start), float(stop - start), row[0], row[1], row[2], row[4], row[7])
            tries.segments.append(segment)


def _counts(flat: Counts, shape: tuple[int, ...]) -> Counts:
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def _take_in_durations(tries: Tries, lasted: Floats, is_good: npt.NDArray[np.bool_]) -> None:
    with np.errstate(divide="ignore"):
        places = (np.log10(np.maximum(lasted, 10.0**_FINEST)) - _FINEST) * _PER_DECADE
    bins = np.clip(places.astype(np.int64), 0, _PER_DECADE * _DECADES - 1)
    for row, chosen in enumerate((is_good, ~is_good)):
        tries.durations[row] += np.bincount(bins[chosen], minlength=_PER_DECADE * _DECADES)
    if is_good.any():
        good = lasted[is_good]
        tries.shortest = float(min(good.min(), tries.shortest or np.inf))
        tries.longest = float(max(good.max(), tries.longest))


def quantile(durations: Counts, share: float) -> float:
    """Return the duration (s) that *share* of those counted do not exceed, to some 1 %; 0 without any."""
    total = int(durations.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(durations), share * total))
    return float(10.0 ** (_FINEST + (place + 0.5) / _PER_DECADE))


class Column(NamedTuple):
    """A column of the distribution of durations."""

    begins: float  #: s
    stops: float
    succeeded: int
    failed: int


def columns(durations: Counts, most: int = 48) -> list[Column]:
    """Return the distribution in at most *most* columns of equal width on a logarithmic axis, without empty ends."""
    used = np.flatnonzero(durations.sum(axis=0))
    if not len(used):
        return []
    first, last = int(used[0]), int(used[-1]) + 1
    width = next(width for width in (2, 5, 10, 25, 50, 100) if -(-last // width) - first // width <= most)
    first, last = first // width * width, -(-last // width) * width
    padded = np.zeros((2, last - first), dtype=np.int64)
    padded[:, : durations.shape[1] - first] = durations[:, first:last]
    grouped = padded.reshape(2, -1, width).sum(axis=2)
    edges = [10.0 ** (_FINEST + place / _PER_DECADE) for place in range(first, last + 1, width)]
    return [Column(*both) for both in zip(edges, edges[1:], grouped[0].tolist(), grouped[1].tolist(), strict=False)]
