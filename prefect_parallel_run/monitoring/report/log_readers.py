"""Reads what a run left in its folder of logs; missing files and unreadable lines are skipped.

``*.processes.jsonl`` and ``*.resources.csv`` come from the nodes, ``*progress.csv`` from the flow process.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.models import Outcome
from prefect_parallel_run.monitoring.report.axis import BINS, Axis, Floats

_MAX_PROCESSES = 50_000  #: to read: a script that crashes in every mini-batch starts one for each
KILLS = (Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.DIED, "start_failed")  #: reasons of unexpected ends
_FIELDS = ("time", "cpu_percent", "memory_used", "memory_total", "processes", "processes_memory", "disk_free")
_MAX_FILES = 300  #: resource files to read


class ProcessEnd(NamedTuple):
    """The end of a process."""

    at: float  #: Unix time, s
    reason: str


@dataclass(slots=True)
class Process:
    """The lifetime of one process; times are Unix times in s, None if unknown."""

    execution: int
    node: str
    pid: int
    started: float
    slot: int | None = None
    setup_began: float | None = None  #: start of the import; for a standby child, which imports without a slot, of init()
    ready: float | None = None
    end: ProcessEnd | None = None
    threads: str = ""  #: that it may use, as OMP_NUM_THREADS says; "" if unknown


def read_processes(logs: Path, check_cancelled: CheckCancelled) -> tuple[list[Process], bool]:
    """Return the processes of a run, and whether the list is complete."""
    processes: list[Process] = []
    is_complete = True
    for path, execution, node in _files(logs, "processes.jsonl"):
        check_cancelled()
        for process in _processes(path, execution, node):
            if process is None:
                is_complete = False
            elif len(processes) >= _MAX_PROCESSES:
                return processes, False
            else:
                processes.append(process)
    return processes, is_complete


def _files(logs: Path, kind: str) -> Iterator[tuple[Path, int, str]]:
    """Yield the files of one kind, with the number of the execution and the node."""
    name = re.compile(rf"(?:r(\d+)\.)?(?:(.+)\.)?{re.escape(kind)}")
    for path in sorted(logs.iterdir()) if logs.is_dir() else []:
        if match := name.fullmatch(path.name):
            yield path, int(match[1] or 1), match[2] or ""


def _processes(path: Path, execution: int, node: str) -> Iterator[Process | None]:
    """Yield the processes of one file, each when its record is complete; None where the node left some out."""
    alive: dict[str, Process] = {}
    for event in _events(path):
        try:
            name, kind, at = str(event.get("process")), event["event"], float(event["at"])
            slot = None if event.get("slot") is None else int(event["slot"])
            if kind == "left_out":
                yield None
            elif kind == "started":
                began = None if slot is None else at
                threads = str(event.get("threads", ""))
                alive[name] = Process(execution, node, int(event["pid"]), at, slot, began, threads=threads)
            elif (process := alive.get(name)) is not None:
                process.slot = process.slot if slot is None else slot
                if kind == "ready":
                    process.ready = at
                    if process.setup_began is None:
                        process.setup_began = at - float(event.get("init_seconds") or 0.0)
                elif kind == "ended":
                    process.end = ProcessEnd(at, str(event.get("reason", "")))
                    yield alive.pop(name)
        except (KeyError, TypeError, ValueError):  # written by another version
            continue
    yield from alive.values()


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:  # the node was lost while it wrote the line
                continue
            if isinstance(event, dict):
                yield event


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity over time: per bin the lowest, mean and highest of the nodes; NaN without a measurement."""

    low: Floats
    mean: Floats
    high: Floats

    @property
    def is_band(self) -> bool:
        """Return whether the nodes differ."""
        return bool(np.nanmax(self.high - self.low) > 0)


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
    files = list(_files(logs, "resources.csv"))
    totals = [_Band() for _ in range(3)]
    peaks: dict[str, Peak] = {}
    for path, _, node in files[:_MAX_FILES]:
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
    return Resources(cpu, memory, processes, order, len({node for _, _, node in files}))


def read_progress(logs: Path) -> dict[int, list[Progress]]:
    """Return the lines of the progress file of each execution."""
    fields = ("time", "planned", "finished", "remaining_seconds")
    progress = {}
    for path, execution, _ in _files(logs, "progress.csv"):
        lines = [
            Progress(time, int(planned), int(finished), None if np.isnan(remaining) else remaining)
            for time, planned, finished, remaining in _numbers(path, fields)
        ]
        if lines:
            progress[execution] = lines
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


def _numbers(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[float, ...]]:
    """Yield the values of *fields* line by line, NaN for an empty field; incomplete lines are skipped."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            try:
                yield tuple(float(row[name]) if row[name] != "" else np.nan for name in fields)
            except (KeyError, TypeError, ValueError):
                continue
