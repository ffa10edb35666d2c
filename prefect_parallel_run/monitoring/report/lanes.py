"""The lanes of a timeline: one per slot; for many slots one per node; for many nodes only the most relevant ones.

Node and pid give the lane of an attempt: the process logs say which process was in which slot. Without such logs, the processes
of a node share as few lanes as possible.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prefect_parallel_run._units import count
from prefect_parallel_run.monitoring.report.log_readers import Process

MAX_LANES = 96
_OVERLAP = 0.05  #: s by which two clocks may differ


class ProcessWork(NamedTuple):
    """The attempts of one process according to the ledger."""

    node: str
    pid: int
    attempts: int
    failed: int
    began: float  #: Unix time, s
    ended: float


class Lane(NamedTuple):
    """A row of the timeline."""

    node: str
    label: str  #: the row within its node
    slots: int = 1  #: slots that it represents


@dataclass(slots=True)
class Lanes:
    """The lanes, and the lane of each process."""

    lanes: list[Lane]
    total: int  #: number of slots
    nodes: int
    detail: str  #: "slot", "node" or "some nodes"
    _known: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=dict)  #: lanes of each pid, with start times

    def of(self, node: str, pid: int, started: float) -> int:
        """Return the lane of an attempt that started at *started*."""
        known = self._known[node, pid]
        if len(known) == 1:
            return known[0][1]
        return known[max(bisect_right(known, (started + _OVERLAP, len(self.lanes))) - 1, 0)][1]

    def single_lanes(self) -> dict[tuple[str, int], int]:
        """Return the lane of each process that was in one lane only."""
        return {key: known[0][1] for key, known in self._known.items() if len({lane for _, lane in known}) == 1}

    def of_slot(self, process: Process) -> int | None:
        """Return the lane of a process; None if it never had a slot."""
        known = self._known.get((process.node, process.pid))
        return None if known is None else self.of(process.node, process.pid, process.ready or process.started)


def assign_lanes(work: Sequence[ProcessWork], processes: Iterable[Process], most: int = MAX_LANES) -> Lanes:
    """Return at most *most* lanes that cover all attempts in *work* and all processes that had a slot."""
    known: dict[tuple[str, int], list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    for process in processes:
        if process.slot is not None:
            key = process.node, process.pid
            known[key].append((process.ready or process.started, (process.node, f"slot {process.slot}")))
    for entry, lane in _packed(entry for entry in work if (entry.node, entry.pid) not in known):
        known[entry.node, entry.pid].append((entry.began, lane))
    names = sorted({lane for assigned in known.values() for _, lane in assigned}, key=_natural)
    lanes, index = _folded(names, work, most)
    return Lanes(
        lanes=lanes,
        total=len(names),
        nodes=len({node for node, _ in names}),
        detail="slot" if len(names) <= most else "node" if len({node for node, _ in names}) <= most else "some nodes",
        _known={key: sorted((since, index[lane]) for since, lane in assigned) for key, assigned in known.items()},
    )


def _packed(work: Iterable[ProcessWork]) -> Iterable[tuple[ProcessWork, tuple[str, str]]]:
    """Yield a lane for each process: the first lane of its node that is free when it starts."""
    free: dict[str, list[float]] = defaultdict(list)  # end of the last process in each lane of a node
    for process in sorted(work, key=lambda process: (process.node, process.began)):
        if process.pid == 0:
            yield process, (process.node, "lost with the node")
            continue
        ends = free[process.node]
        number = next((index for index, end in enumerate(ends) if end <= process.began + _OVERLAP), len(ends))
        ends[number : number + 1] = [process.ended]
        yield process, (process.node, f"process {number + 1}")


def _folded(
    names: Sequence[tuple[str, str]], work: Sequence[ProcessWork], most: int
) -> tuple[list[Lane], dict[tuple[str, str], int]]:
    """Return the lanes to draw, and the index of each name in them."""
    if len(names) <= most:
        return [Lane(*name) for name in names], {name: index for index, name in enumerate(names)}
    slots: dict[str, int] = defaultdict(int)
    for node, _ in names:
        slots[node] += 1
    shown = _select_nodes(slots, work, most)
    rest = [node for node in slots if node not in shown]
    lanes = [Lane(node, count(slots[node], "slot"), slots[node]) for node in shown]
    if rest:
        lanes.append(Lane(count(len(rest), "more node"), "together", sum(slots[node] for node in rest)))
    order = {node: index for index, node in enumerate(shown)}
    return lanes, {name: order.get(name[0], len(shown)) for name in names}


def _select_nodes(slots: dict[str, int], work: Sequence[ProcessWork], most: int) -> list[str]:
    """Return the nodes to show: all, or those with the most failed attempts, then those with the fewest attempts."""
    if len(slots) <= most:
        return sorted(slots, key=lambda node: _natural((node, "")))
    scores: dict[str, list[int]] = {node: [0, 0] for node in slots}
    for process in work:
        scores[process.node][0] -= process.failed
        scores[process.node][1] += process.attempts
    ranked = sorted(slots, key=lambda node: (scores[node], _natural((node, ""))))
    return sorted(ranked[: most - 1], key=lambda node: _natural((node, "")))


def _natural(name: tuple[str, str]) -> list[tuple[int, str]]:
    """Return a sort key that orders node-2 before node-10."""
    parts = re.split(r"(\d+)", "\0".join(name))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
