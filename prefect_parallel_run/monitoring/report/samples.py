"""Reads the measurements of a run: logs/*.resources.csv of the nodes, logs/*progress.csv of the flow process."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats

_RESOURCES = re.compile(r"(?:r(\d+)\.)?(.+)\.resources\.csv")
_PROGRESS = re.compile(r"(?:r(\d+)\.)?progress\.csv")
_FIELDS = ("time", "cpu_percent", "memory_used", "memory_total", "processes", "processes_memory", "disk_free")
_MAX_FILES = 300  #: resource files to read


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity over time: per bin the lowest, mean and highest of the nodes; NaN without a measurement."""

    low: Floats
    mean: Floats
    high: Floats


class Peak(NamedTuple):
    """The peak values of one node."""

    node: str
    memory_used: float  #: bytes
    memory_total: float
    processes_memory: float
    cpu_percent: float  #: mean
    disk_free: float  #: bytes, the minimum


@dataclass(frozen=True, slots=True)
class Resources:
    """The resource use of the nodes."""

    cpu: Curve  #: percent of the machine
    memory: Curve  #: percent of the machine
    processes_memory: Curve  #: bytes per node
    peaks: list[Peak]
    nodes: int  #: nodes with measurements; only 300 files are read


class Progress(NamedTuple):
    """One line of a progress file."""

    time: float  #: Unix, s
    planned: int
    finished: int
    remaining_seconds: float | None


def read_resources(logs: Path, axis: Axis, check_cancelled: CheckCancelled) -> Resources | None:
    """Return the resource use of the nodes; None without measurements."""
    files = [(path, match[2]) for path in _sorted(logs) if (match := _RESOURCES.fullmatch(path.name))]
    totals = [_Band() for _ in range(3)]
    peaks: dict[str, Peak] = {}
    for path, node in files[:_MAX_FILES]:
        check_cancelled()
        table = np.asarray(list(_numbers(path, _FIELDS)), dtype=np.float64).reshape(-1, len(_FIELDS))
        if not len(table):
            continue
        bins = axis.bins(axis.positions(table[:, 0]))
        values = (table[:, 1], 100 * table[:, 2] / np.maximum(table[:, 3], 1), table[:, 5])
        for band, value in zip(totals, values, strict=True):
            band.add(bins, value)
        peaks[node] = _merge(peaks.get(node), _peak(node, table))
    if not peaks:
        return None
    cpu, memory, processes = (band.curve() for band in totals)
    order = sorted(peaks.values(), key=lambda peak: -peak.memory_used / max(peak.memory_total, 1))
    return Resources(cpu, memory, processes, order, len({node for _, node in files}))


def read_progress(logs: Path) -> dict[int, list[Progress]]:
    """Return the lines of the progress file of each execution."""
    progress = {}
    for path in _sorted(logs):
        if match := _PROGRESS.fullmatch(path.name):
            fields = ("time", "planned", "finished", "remaining_seconds")
            lines = [
                Progress(time, int(planned), int(finished), None if remaining != remaining else remaining)  # noqa: PLR0124  NaN
                for time, planned, finished, remaining in _numbers(path, fields)
            ]
            if lines:
                progress[int(match[1] or 1)] = lines
    return progress


class _Band:
    """Aggregates values of several nodes in bins: the mean per node and bin, then the range over nodes."""

    def __init__(self) -> None:
        self._low, self._high = np.full(BINS, np.inf), np.full(BINS, -np.inf)
        self._sum, self._nodes = np.zeros(BINS), np.zeros(BINS)

    def add(self, bins: np.ndarray[tuple[int, ...], np.dtype[np.int64]], values: Floats) -> None:
        counts = np.bincount(bins, minlength=BINS)
        seen = counts > 0
        means = np.bincount(bins, values, BINS)[seen] / counts[seen]
        self._low[seen] = np.minimum(self._low[seen], means)
        self._high[seen] = np.maximum(self._high[seen], means)
        self._sum[seen] += means
        self._nodes += seen

    def curve(self) -> Curve:
        nothing = self._nodes == 0
        mean = np.where(nothing, np.nan, self._sum / np.maximum(self._nodes, 1))
        return Curve(np.where(nothing, np.nan, self._low), mean, np.where(nothing, np.nan, self._high))


def _peak(node: str, table: Floats) -> Peak:
    used, total, processes = (float(table[:, column].max()) for column in (2, 3, 5))
    return Peak(node, used, total, processes, float(table[:, 1].mean()), float(table[:, 6].min()))


def _merge(first: Peak | None, second: Peak) -> Peak:
    """Return the peak values of a node over two executions."""
    if first is None:
        return second
    used, total, processes, cpu = map(max, first[1:5], second[1:5])
    return Peak(first.node, used, total, processes, cpu, min(first.disk_free, second.disk_free))


def _sorted(logs: Path) -> list[Path]:
    return sorted(logs.iterdir()) if logs.is_dir() else []


def _numbers(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[float, ...]]:
    """Yield the values of *fields* line by line, NaN for an empty field; incomplete lines are skipped."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            try:
                yield tuple(float(row[name]) if row[name] != "" else np.nan for name in fields)
            except (KeyError, TypeError, ValueError):
                continue
