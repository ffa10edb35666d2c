"""The lanes of a timeline: one per slot, or one per node, or one per node most worth seeing, where those are too many.

A try is found in its lane by node and pid: the nodes wrote down which process was in which slot. Where they did not, the
processes of a node share as few lanes as they need.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prefect_parallel_run.monitoring.report.processes import Process

MOST_LANES = 96
_OVERLAP = 0.05  #: s by which two clocks may differ


class Worked(NamedTuple):
    """What the ledger has of one pid of one node."""

    node: str
    pid: int
    tries: int
    failed: int
    began: float  #: Unix time, s
    ended: float


class Lane(NamedTuple):
    """A row of the timeline."""

    node: str
    label: str  #: of the row in its node
    slots: int = 1  #: processes that it stands for


@dataclass(slots=True)
class Lanes:
    """The lanes, and which try belongs to which."""

    lanes: list[Lane]
    total: int  #: lanes there would be if every slot had one
    nodes: int
    detail: str  #: slot, node, some nodes
    _known: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=dict)  #: since when a pid was in a lane

    def of(self, node: str, pid: int, started: float) -> int:
        """Return the lane of a try that began at *started*."""
        known = self._known[node, pid]
        if len(known) == 1:
            return known[0][1]
        return known[max(bisect_right(known, (started + _OVERLAP, len(self.lanes))) - 1, 0)][1]

    def sure(self) -> dict[tuple[str, int], int]:
        """Return the lane of every pid that was in one lane only."""
        return {key: known[0][1] for key, known in self._known.items() if len({lane for _, lane in known}) == 1}

    def of_slot(self, process: Process) -> int | None:
        """Return the lane of a process that was in a slot."""
        known = self._known.get((process.node, process.pid))
        return None if known is None else self.of(process.node, process.pid, process.ready or process.started)


def allot(worked: Sequence[Worked], processes: Iterable[Process], most: int = MOST_LANES) -> Lanes:
    """Return at most *most* lanes, in which every try of *worked* and every process that was in a slot has its place."""
    known: dict[tuple[str, int], list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    for process in processes:
        if process.slot is not None:
            key = process.node, process.pid
            known[key].append((process.ready or process.started, (process.node, f"slot {process.slot}")))
    for one, lane in _packed(one for one in worked if (one.node, one.pid) not in known):
        known[one.node, one.pid].append((one.began, lane))
    names = sorted({lane for found in known.values() for _, lane in found}, key=_natural)
    lanes, place = _folded(names, worked, most)
    return Lanes(
        lanes=lanes,
        total=len(names),
        nodes=len({node for node, _ in names}),
        detail="slot" if len(names) <= most else "node" if len({node for node, _ in names}) <= most else "some nodes",
        _known={key: sorted((since, place[lane]) for since, lane in found) for key, found in known.items()},
    )


def _packed(worked: Iterable[Worked]) -> Iterable[tuple[Worked, tuple[str, str]]]:
    """Yield a lane for each pid: the first of its node that is free by then."""
    free: dict[str, list[float]] = defaultdict(list)  # until when each lane of a node is taken
    for one in sorted(worked, key=lambda one: (one.node, one.began)):
        if one.pid == 0:
            yield one, (one.node, "lost with it")
            continue
        ends = free[one.node]
        number = next((place for place, end in enumerate(ends) if end <= one.began + _OVERLAP), len(ends))
        ends[number : number + 1] = [one.ended]
        yield one, (one.node, f"process {number + 1}")


def _folded(
    names: Sequence[tuple[str, str]], worked: Sequence[Worked], most: int
) -> tuple[list[Lane], dict[tuple[str, str], int]]:
    """Return the lanes to draw, and the place of each name among them."""
    if len(names) <= most:
        return [Lane(*name) for name in names], {name: place for place, name in enumerate(names)}
    slots: dict[str, int] = defaultdict(int)
    for node, _ in names:
        slots[node] += 1
    shown = _most_worth_seeing(slots, worked, most)
    rest = [node for node in slots if node not in shown]
    lanes = [Lane(node, f"{slots[node]} slots", slots[node]) for node in shown]
    if rest:
        lanes.append(Lane(f"{len(rest):,} more nodes", "together", sum(slots[node] for node in rest)))
    order = {node: place for place, node in enumerate(shown)}
    return lanes, {name: order.get(name[0], len(shown)) for name in names}


def _most_worth_seeing(slots: dict[str, int], worked: Sequence[Worked], most: int) -> list[str]:
    """Return the nodes to show, in order: all, or those with the most failed tries, then those with the fewest tries."""
    if len(slots) <= most:
        return sorted(slots, key=lambda node: _natural((node, "")))
    tries: dict[str, list[int]] = {node: [0, 0] for node in slots}
    for one in worked:
        tries[one.node][0] -= one.failed
        tries[one.node][1] += one.tries
    ranked = sorted(slots, key=lambda node: (tries[node], _natural((node, ""))))
    return sorted(ranked[: most - 1], key=lambda node: _natural((node, "")))


def _natural(name: tuple[str, str]) -> list[tuple[int, str]]:
    """Order node-2 before node-10."""
    parts = re.split(r"(\d+)", "\0".join(name))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
