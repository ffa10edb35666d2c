"""``job_progress_overview.txt``: the progress of a run for people. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prefect_parallel_run._units import format_seconds
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.progress import ProgressSnapshot

_MAX_CHARACTERS = 200  #: of an error message
_MAX_LINES = 50  #: causes, and nodes that were lost or released


@dataclass(slots=True)
class NodeCounts:
    """The attempts of one node in this execution."""

    host: str = ""
    processes: int = 0
    end: str = ""  #: lost or released; empty while the node is in use
    attempts: int = 0
    failed: int = 0  #: attempts


@dataclass(slots=True)
class CauseCounts:
    """The failed attempts with one cause."""

    outcome: str
    error_type: str
    error: str  #: of the first attempt
    first_mini_batch: int
    attempts: int = 0
    nodes: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The content of the file."""

    run: str
    step: str
    status: str
    reason: str
    execution: int  #: 1 for the first
    now: float  #: Unix time, s
    snapshot: ProgressSnapshot
    nodes: dict[str, NodeCounts]
    causes: Sequence[CauseCounts]

    def text(self) -> str:
        """Return the text of the file."""
        parts = [self._head(), self._counts(), self._pace()]
        if self.nodes:
            parts.append("nodes of this execution\n" + "".join(self._node_lines()))
        if self.causes:
            parts.append("failed attempts by cause\n" + "".join(_cause_lines(self.causes)))
        return "\n".join(parts)

    def _head(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.now))
        status = "paused" if self._is_running and self.snapshot.is_paused else self.status
        if self.reason:
            status += f": {_one_line(self.reason)}"
        since = f"{at}, after {format_seconds(self.snapshot.elapsed)}"
        if self.execution > 1:
            since += f", execution {self.execution}"
        return f"run     {self.run}\nstep    {self.step}\nstatus  {status}\nas of   {since}\n"

    def _counts(self) -> str:
        tally = self.snapshot.tally
        not_reached = tally.planned - tally.finished - tally.waiting
        items_not_reached = tally.items - tally.succeeded_items - tally.failed_items - tally.waiting_items
        rows = [
            ("", "planned", "succeeded", "failed", "waiting", "not reached"),
            ("mini-batches", tally.planned, tally.succeeded, tally.failed, tally.waiting, not_reached),
            ("items", tally.items, tally.succeeded_items, tally.failed_items, tally.waiting_items, items_not_reached),
        ]
        lines = [
            f"{name:<14}" + "".join(f"{value:>14,}" if name else f"{value:>14}" for value in values) for name, *values in rows
        ]
        note = ["(the input is still being listed)"] if tally.is_growing else []
        return "\n".join([*lines, f"{'rows':<14}{'':14}{tally.rows:>14,}", *note]) + "\n"

    def _pace(self) -> str:
        rate = self.snapshot.rate
        line = f"rate    {'unknown yet' if rate is None else f'{rate:.1f} mini-batches/s'}\n"
        return f"{line}to go   {str(self.snapshot.forecast) or 'unknown yet'}\n" if self._is_running else line

    @property
    def _is_running(self) -> bool:
        return self.status == "running"

    def _node_lines(self) -> Iterable[str]:
        ended = [name for name, node in self.nodes.items() if node.end]
        left_out = set(ended[:-_MAX_LINES])
        if left_out:
            yield f"  {len(left_out)} more that were lost or released\n"
        for name, node in sorted(self.nodes.items(), key=lambda entry: (len(entry[0]), entry[0])):
            if name not in left_out:
                figures = f"processes: {node.processes}; attempts: {node.attempts:,}, failed: {node.failed:,}"
                yield f"  {name}: on {node.host}, {figures}{f'; {node.end}' if node.end else ''}\n"


def _cause_lines(causes: Sequence[CauseCounts]) -> Iterable[str]:
    ordered = sorted(causes, key=lambda cause: -cause.attempts)
    for cause in ordered[:_MAX_LINES]:
        error = _one_line(f"{cause.error_type}: {cause.error}")
        where = f"first mini-batch {cause.first_mini_batch}, on {', '.join(sorted(cause.nodes)[:3])}"
        yield f"  {cause.attempts:,}: {error} ({cause.outcome}; {where})\n"
    if len(ordered) > _MAX_LINES:
        yield f"  and {len(ordered) - _MAX_LINES} more causes\n"


def _one_line(text: str) -> str:
    line = " ".join(escape_control_chars(text).split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]} …"
