"""``job_progress_overview.txt``: how far a run is, as a person reads it in an editor. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.progress import ProgressSnapshot
from prefect_parallel_run.units import format_seconds

_LONGEST = 200  #: characters of an error
_MOST = 50  #: causes, and nodes that are gone


@dataclass(slots=True)
class NodeCounts:
    """What a node has done in this driving."""

    host: str = ""
    processes: int = 0
    end: str = ""  #: how it went, when it went before the run's end
    tries: int = 0
    failed: int = 0  #: tries


@dataclass(slots=True)
class CauseCounts:
    """Failed tries that have one cause."""

    outcome: str
    error_type: str
    error: str  #: of the first
    first_mini_batch: int
    tries: int = 0
    nodes: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What is told of a run."""

    run: str
    step: str
    status: str
    reason: str
    drive: int
    now: float  #: Unix time, s
    going: ProgressSnapshot
    nodes: dict[str, NodeCounts]
    causes: Sequence[CauseCounts]

    def text(self) -> str:
        """Return it as a text of some lines."""
        parts = [self._head(), self._counts(), self._pace()]
        if self.nodes:
            parts.append("nodes of this drive\n" + "".join(self._node_lines()))
        if self.causes:
            parts.append("failed tries by cause\n" + "".join(_cause_lines(self.causes)))
        return "\n".join(parts)

    def _head(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.now))
        status = "paused" if self._is_going and self.going.is_paused else self.status
        if self.reason:
            status += f": {_one_line(self.reason)}"
        since = f"{at}, after {format_seconds(self.going.elapsed)}" + (f", drive {self.drive}" if self.drive > 1 else "")
        return f"run     {self.run}\nstep    {self.step}\nstatus  {status}\nas of   {since}\n"

    def _counts(self) -> str:
        tally = self.going.tally
        left = tally.planned - tally.finished - tally.waiting
        items_left = tally.items - tally.succeeded_items - tally.failed_items - tally.waiting_items
        rows = [
            ("", "planned", "succeeded", "failed", "waiting", "not reached"),
            ("mini-batches", tally.planned, tally.succeeded, tally.failed, tally.waiting, left),
            ("items", tally.items, tally.succeeded_items, tally.failed_items, tally.waiting_items, items_left),
        ]
        lines = [
            f"{name:<14}" + "".join(f"{value:>14,}" if name else f"{value:>14}" for value in values) for name, *values in rows
        ]
        more = ["(the input is still being listed)"] if tally.is_growing else []
        return "\n".join([*lines, f"{'rows':<14}{'':14}{tally.rows:>14,}", *more]) + "\n"

    def _pace(self) -> str:
        rate = self.going.rate
        words = f"rate    {'not known yet' if rate is None else f'{rate:.1f} mini-batches/s'}\n"
        return f"{words}to go   {str(self.going.outlook) or 'not known yet'}\n" if self._is_going else words

    @property
    def _is_going(self) -> bool:
        return self.status == "running"

    def _node_lines(self) -> Iterable[str]:
        gone = [name for name, node in self.nodes.items() if node.end]
        untold = set(gone[:-_MOST])
        if untold:
            yield f"  {len(untold)} more that are gone\n"
        for name, node in sorted(self.nodes.items(), key=lambda one: (len(one[0]), one[0])):
            if name not in untold:
                where = f"on {node.host}, processes: {node.processes}; tries: {node.tries:,}, failed: {node.failed:,}"
                yield f"  {name}: {where}{f'; {node.end}' if node.end else ''}\n"


def _cause_lines(causes: Sequence[CauseCounts]) -> Iterable[str]:
    ordered = sorted(causes, key=lambda cause: -cause.tries)
    for cause in ordered[:_MOST]:
        words = _one_line(f"{cause.error_type}: {cause.error}")
        where = f"first mini-batch {cause.first_mini_batch}, on {', '.join(sorted(cause.nodes)[:3])}"
        yield f"  {cause.tries:,}: {words} ({cause.outcome}; {where})\n"
    if len(ordered) > _MOST:
        yield f"  and {len(ordered) - _MOST} more causes\n"


def _one_line(text: str) -> str:
    line = " ".join(escape_control_chars(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
