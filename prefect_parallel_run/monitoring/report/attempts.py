"""Reads all attempts of a run into bins: of time per lane, and of duration. Uses constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats, spread
from prefect_parallel_run.monitoring.report.lanes import Lanes, ProcessWork
from prefect_parallel_run.runs.ledger import Ledger

Counts = npt.NDArray[np.int64]
FATAL = (Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.DIED, Outcome.LOST)  #: outcomes that end the process
MAX_SEGMENTS = 2_500  #: attempts to draw one by one
_MAX_EXECUTIONS = 100  #: the latest ones, in which equal pids are distinguished
_BLOCK = 5_000  #: attempts at a time
_FINEST, _PER_DECADE, _DECADES = -5, 100, 12  #: bins of durations: from 10 µs, each 2.3 % longer than the previous one
_SOURCE = (
    "(SELECT mini_batch, attempt, outcome, node, pid, started, seconds, 0 AS piece FROM attempts"
    " UNION ALL SELECT mini_batch, start, outcome, node, pid, started, seconds, stop - start FROM pieces)"
)
_TOTAL = "SELECT (SELECT COUNT(*) FROM attempts) + (SELECT COUNT(*) FROM pieces)"
_DATED = "started > 0 AND seconds IS NOT NULL"


class Segment(NamedTuple):
    """One attempt on the timeline."""

    lane: int
    begins: float  #: position on the axis, s
    seconds: float
    mini_batch: int
    attempt: int  #: for a piece its first item
    outcome: str
    pid: int
    piece: int  #: number of items in an attempt at some items; otherwise 0


@dataclass(slots=True)
class Durations:
    """How long the attempts took."""

    counts: Counts  #: shape (2, …): succeeded, failed
    shortest: float = 0.0  #: s, of the successful attempts
    longest: float = 0.0  #: s, of the successful attempts

    def add(self, seconds: Floats, is_good: npt.NDArray[np.bool_]) -> None:
        """Count attempts by their seconds."""
        with np.errstate(divide="ignore"):
            indices = (np.log10(np.maximum(seconds, 10.0**_FINEST)) - _FINEST) * _PER_DECADE
        bins = np.clip(indices.astype(np.int64), 0, _PER_DECADE * _DECADES - 1)
        for row, chosen in enumerate((is_good, ~is_good)):
            self.counts[row] += np.bincount(bins[chosen], minlength=_PER_DECADE * _DECADES)
        if is_good.any():
            good = seconds[is_good]
            self.shortest = float(min(good.min(), self.shortest or np.inf))
            self.longest = float(max(good.max(), self.longest))

    def quantile(self, share: float) -> float:
        """Return the quantile *share* of the successful attempts in s."""
        return min(max(quantile(self.counts[0], share), self.shortest), self.longest)


@dataclass(slots=True)
class Attempts:
    """Attempts in bins: each dated one is in one of ``succeeded`` or ``failed`` and in one of ``durations``."""

    busy: Floats  #: s per lane and bin; the sum is the duration of all attempts
    succeeded: Counts  #: per lane and bin
    failed: Counts
    durations: Durations
    fatal: Counter[tuple[int, int, str]] = field(default_factory=Counter)  #: by lane, bin, outcome
    outcomes: Counter[str] = field(default_factory=Counter)
    segments: list[Segment] | None = None  #: None if there are too many
    undated: int = 0  #: attempts without a known time

    @property
    def dated(self) -> int:
        """Return the number of attempts on the timeline."""
        return int(self.succeeded.sum() + self.failed.sum())


def process_work(ledger: Ledger, begins: Sequence[float] = ()) -> list[ProcessWork]:
    """Return the work of each process; *begins* are the start times of the executions, which share no process."""
    known = begins[-_MAX_EXECUTIONS:]
    execution = f", {' + '.join('(started >= ?)' for _ in known)}" if known else ""  # a later one may reuse a pid
    rows = ledger.rows(
        "SELECT COALESCE(node, ''), COALESCE(pid, 0), COUNT(*), SUM(outcome <> 'succeeded'), MIN(started),"  # noqa: S608  our own constants
        f" MAX(started + seconds) FROM {_SOURCE} WHERE {_DATED} GROUP BY 1, 2{execution}",
        *known,
    )
    return [ProcessWork(*row) for row in rows]


def read_attempts(ledger: Ledger, axis: Axis | None, lanes: Lanes, count: int, check_cancelled: CheckCancelled) -> Attempts:
    """Return the attempts of a run.

    Args:
        ledger: Ledger of the run.
        axis: Time axis that covers all dated attempts; None without any.
        lanes: Lanes that cover all attempts.
        count: Number of dated attempts; up to MAX_SEGMENTS each becomes a segment.
        check_cancelled: Called repeatedly; raises to stop.
    """
    shape = (len(lanes.lanes), BINS)
    attempts = Attempts(
        busy=np.zeros(shape),
        succeeded=np.zeros(shape, dtype=np.int64),
        failed=np.zeros(shape, dtype=np.int64),
        durations=Durations(np.zeros((2, _PER_DECADE * _DECADES), dtype=np.int64)),
        segments=[] if count <= MAX_SEGMENTS else None,
    )
    attempts.undated = int(next(ledger.rows(_TOTAL))[0]) - count
    if axis is None:
        return attempts
    single_lanes = lanes.single_lanes()
    for block in _blocks(ledger):
        check_cancelled()
        _add(attempts, block, axis, lanes, single_lanes)
    return attempts


def _blocks(ledger: Ledger) -> Iterator[list[tuple[Any, ...]]]:
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), COALESCE(pid, 0), started, seconds, piece"  # noqa: S608  our own constants
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


def _add(
    attempts: Attempts, block: list[tuple[Any, ...]], axis: Axis, lanes: Lanes, single_lanes: Mapping[tuple[str, int], int]
) -> None:
    _, _, outcomes, nodes, pids, started, seconds, _ = zip(*block, strict=True)
    keys = zip(nodes, pids, started, strict=True)
    lane_numbers = [
        single_lanes[node, pid] if (node, pid) in single_lanes else lanes.of(node, pid, at) for node, pid, at in keys
    ]
    lane = np.asarray(lane_numbers, dtype=np.int64)
    begins, durations = np.asarray(started, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    starts, stops = axis.positions(begins), axis.positions(begins + durations)
    is_good = np.asarray([outcome == Outcome.SUCCEEDED for outcome in outcomes])
    attempts.busy += spread(axis, lane, starts, stops, len(lanes.lanes))
    ends = lane * BINS + axis.bins(stops)
    attempts.succeeded += _counts(ends[is_good], attempts.succeeded.shape)
    attempts.failed += _counts(ends[~is_good], attempts.failed.shape)
    attempts.durations.add(durations, is_good)
    attempts.outcomes.update(outcomes)
    for index in np.flatnonzero(~is_good):
        if outcomes[index] in FATAL:
            attempts.fatal[int(lane[index]), int(ends[index] % BINS), outcomes[index]] += 1
    if attempts.segments is not None:
        for row, at, start, stop in zip(block, lane_numbers, starts, stops, strict=True):
            segment = Segment(at, float(start), float(stop - start), row[0], row[1], row[2], row[4], row[7])
            attempts.segments.append(segment)


def _counts(flat: Counts, shape: tuple[int, ...]) -> Counts:
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)


def quantile(durations: Counts, share: float) -> float:
    """Return the quantile *share* of the counted durations in s, accurate to about 1 %; 0 without any."""
    total = int(durations.sum())
    if not total:
        return 0.0
    index = int(np.searchsorted(np.cumsum(durations), share * total))
    return float(10.0 ** (_FINEST + (index + 0.5) / _PER_DECADE))


class Column(NamedTuple):
    """A column of the distribution of durations."""

    begins: float  #: s
    stops: float
    succeeded: int
    failed: int


def columns(durations: Counts, most: int = 48) -> list[Column]:
    """Return a histogram with at most *most* columns of equal width on a logarithmic axis, without empty ends."""
    used = np.flatnonzero(durations.sum(axis=0))
    if not len(used):
        return []
    first, last = int(used[0]), int(used[-1]) + 1
    width = next(width for width in (2, 5, 10, 25, 50, 100) if -(-last // width) - first // width <= most)
    first, last = first // width * width, -(-last // width) * width
    padded = np.zeros((2, last - first), dtype=np.int64)
    padded[:, : durations.shape[1] - first] = durations[:, first:last]
    grouped = padded.reshape(2, -1, width).sum(axis=2)
    edges = [10.0 ** (_FINEST + index / _PER_DECADE) for index in range(first, last + 1, width)]
    return [Column(*values) for values in zip(edges, edges[1:], grouped[0].tolist(), grouped[1].tolist(), strict=False)]
