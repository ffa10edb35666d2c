"""The files in ``logs`` that the flow process writes during an execution.

``job_progress_overview.txt`` is for people and rewritten every few seconds. ``processed_mini-batches.csv`` has one row per
finished attempt at a whole mini-batch and always agrees with the ledger; it is the only file that grows with the plan.
``progress.csv`` has the counts: one line per second at first, then less and less frequently; the second execution writes
``r2.progress.csv``, and so on.

A file that cannot be written causes one warning and is abandoned; the run continues, because the ledger has everything.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run._rate_limit import BackoffTimer
from prefect_parallel_run._units import format_seconds
from prefect_parallel_run.models import Outcome, Receipt, Tally, execution_prefix
from prefect_parallel_run.monitoring.logs import Logger, escape_control_chars, log_warning
from prefect_parallel_run.monitoring.progress import ProgressSnapshot, ProgressTracker
from prefect_parallel_run.runs.events import (
    ExecutionEnded,
    NodeJoined,
    NodeLost,
    NodeReleased,
    PieceFinished,
    Progressed,
    ReceiptsCommitted,
    RunEvent,
    RunFinished,
    RunStarted,
)
from prefect_parallel_run.runs.failures import causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

OVERVIEW, PROCESSED, PROGRESS = "job_progress_overview.txt", "processed_mini-batches.csv", "progress.csv"
PROGRESS_HEADER = (
    "time,planned,finished,succeeded,failed,waiting,items_succeeded,items_failed,rows,remaining_seconds\n"  # time: Unix, s
)
_OVERVIEW_INTERVAL = 5.0  #: s
_MAX_CAUSES = 200  #: in the overview; the ledger has all
PROCESSED_COLUMNS = ("mini_batch", "attempt", "outcome", "node", "pid", "started", "seconds", "error_type")
PROCESSED_HEADER = ",".join(PROCESSED_COLUMNS) + "\n"
_ROW = "%d,%d,%s,%s,%d,%.6f,%.6f,%s\n"  #: started is Unix time; s
_values_of = attrgetter(*PROCESSED_COLUMNS)
_ERROR_TYPE = PROCESSED_COLUMNS.index("error_type")
_BLOCK = 1_000  #: rows per string
_MAX_ERROR = 200  #: length of an error message
_MAX_OVERVIEW_LINES = 50  #: causes, and nodes that were lost or released


class RunFiles:
    """Writes the log files of one execution of a run.

    Args:
        step: Name of the step.
        logger: Receives a warning, once for each file that cannot be written.
        tracker: Progress of the execution.
        clock: Monotonic clock, s.
    """

    _processed_file: _File  # this and the others are opened when the run starts
    _overview_file: _File
    _progress_file: _File

    def __init__(
        self, step: str, logger: Logger, tracker: ProgressTracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._tracker, self._clock = logger, tracker, clock
        self._tally, self._overview = Tally(), _Overview(step)
        self._timer, self._next_overview = BackoffTimer(clock()), clock()

    def handle(self, event: RunEvent) -> None:
        """Write what *event* changes; nothing before the run starts."""
        if isinstance(event, RunStarted):
            self._start(event.directory, event.tally)
        elif self._overview.run_id:
            self._write(event)

    def _start(self, run: RunDirectory, tally: Tally) -> None:
        """Open the files; the rows of earlier executions are written again from the ledger."""
        self._tally = tally
        self._processed_file, self._overview_file = (_File(run.logs / name, self._logger) for name in (PROCESSED, OVERVIEW))
        with Ledger(run.ledger) as ledger:
            self._overview.start(run.run_id, ledger)
            self._processed_file.replace([PROCESSED_HEADER, *([] if ledger.is_empty() else _rows_in(ledger))])
        self._progress_file = _File(run.logs / f"{execution_prefix(self._overview.execution)}{PROGRESS}", self._logger)
        self._progress_file.append(PROGRESS_HEADER)
        self._timer, self._next_overview = BackoffTimer(self._clock()), self._clock()

    def _write(self, event: RunEvent) -> None:
        match event:
            case NodeJoined(facts):
                self._overview.nodes[facts.node] = _NodeCounts(facts.host, facts.slots)
            case NodeLost(node):
                self._overview.node(node).end = "lost"
            case NodeReleased(node):
                self._overview.node(node).end = "released"
            case ReceiptsCommitted(receipts):  # in one write: all of them ran on one node
                self._processed_file.append(_rows_of(receipts))
                for receipt in receipts:
                    self._overview.count(receipt)
            case PieceFinished(receipt):
                self._overview.count(receipt)
            case Progressed(tally):
                self._tally = tally
                self._write_due()
            case ExecutionEnded(tally):
                self._tally = tally
                self._write_progress()
                self._write_overview()
            case RunFinished(status, reason):
                self._overview.status, self._overview.reason = status, reason
                self._write_overview()

    def _write_due(self) -> None:
        now = self._clock()
        if self._timer.is_due(now):
            self._write_progress()
        if now >= self._next_overview:
            self._next_overview = now + _OVERVIEW_INTERVAL
            self._write_overview()

    def _write_progress(self) -> None:
        tally = self._tally
        mini_batches = (tally.planned, tally.finished, tally.succeeded, tally.failed, tally.waiting)
        remaining = self._tracker.snapshot(tally).forecast.remaining
        values = (*mini_batches, tally.succeeded_items, tally.failed_items, tally.rows)
        rest = "" if remaining is None else f"{remaining:.1f}"
        self._progress_file.append(f"{time.time():.3f},{','.join(map(str, values))},{rest}\n")

    def _write_overview(self) -> None:
        self._overview_file.replace([self._overview.text(self._tracker.snapshot(self._tally), time.time())])


class _File:
    """A file that is abandoned with one warning after the first error."""

    def __init__(self, path: Path, logger: Logger) -> None:
        self._path, self._logger = path, logger
        self._is_writable = True

    def append(self, text: str) -> None:
        """Append *text* in one write."""

        def append() -> None:
            with self._path.open("ab", buffering=0) as file:
                file.write(_bytes(text))

        self._try_writing(append)

    def replace(self, blocks: Iterable[str]) -> None:
        """Replace the content atomically by *blocks*."""

        def replace() -> None:
            with AtomicFile(self._path) as file:  # the run lock admits one writer
                file.writelines(map(_bytes, blocks))

        self._try_writing(replace)

    def _try_writing(self, write: Callable[[], None]) -> None:
        if self._is_writable:
            try:
                write()
            except OSError as error:
                self._is_writable = False
                log_warning(self._logger, f"stopped writing {self._path}: {error.strerror or error}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _rows_of(receipts: Iterable[Receipt]) -> str:
    """Return the rows of *receipts* as one string."""
    return "".join([_ROW % (_values_of(r) if not r.error_type else _quoted(_values_of(r))) for r in receipts])


def _rows_in(ledger: Ledger) -> Iterator[str]:
    """Yield the rows of all attempts in the ledger, ordered by mini-batch, many rows per string."""
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), COALESCE(pid, 0), started, seconds, error_type"
        " FROM attempts ORDER BY mini_batch, attempt"
    )
    rows = (_ROW % (_quoted(values) if values[_ERROR_TYPE] else values) for values in ledger.rows(query))
    while block := "".join(islice(rows, _BLOCK)):
        yield block


def _quoted(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return *values* with a quoted error type: its name comes from the script and may contain anything."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([values[_ERROR_TYPE]])
    return (*values[:_ERROR_TYPE], buffer.getvalue())


@dataclass(slots=True)
class _NodeCounts:
    """The attempts of one node in this execution."""

    host: str = ""
    processes: int = 0
    end: str = ""  #: lost or released; empty while the node is in use
    attempts: int = 0
    failed: int = 0  #: attempts


@dataclass(slots=True)
class _CauseCounts:
    """The failed attempts with one cause."""

    outcome: str
    error_type: str
    error: str  #: text of the first attempt's error
    first_mini_batch: int
    attempts: int = 0
    nodes: set[str] = field(default_factory=set)


class _Overview:
    """The content of ``job_progress_overview.txt``."""

    def __init__(self, step: str) -> None:
        self.run_id, self._step, self.execution = "", step, 1
        self.status, self.reason = "running", ""
        self.nodes: dict[str, _NodeCounts] = {}
        self._causes: dict[str, _CauseCounts] = {}  # by fingerprint

    def start(self, run_id: str, ledger: Ledger) -> None:
        """Read the number of the execution and the failures of earlier ones."""
        self.run_id, self.execution = run_id, int(ledger.metadata().get("drives", "1"))
        for cause in causes(ledger, _MAX_CAUSES):
            example = (cause.outcome, cause.error_type, cause.error, cause.first_mini_batch)
            self._causes[cause.fingerprint] = _CauseCounts(*example, cause.tries, set(cause.nodes.split(",")))

    def node(self, name: str) -> _NodeCounts:
        """Return the counts of a node."""
        return self.nodes.setdefault(name, _NodeCounts())

    def count(self, receipt: Receipt) -> None:
        """Count an attempt, and the cause of its failure."""
        node = self.node(receipt.node)
        node.attempts += 1
        if receipt.outcome == Outcome.SUCCEEDED:
            return
        node.failed += 1
        cause = self._causes.get(receipt.fingerprint)
        if cause is None:
            if len(self._causes) >= _MAX_CAUSES:
                return
            example = (receipt.outcome, receipt.error_type, receipt.error)
            cause = self._causes[receipt.fingerprint] = _CauseCounts(*example, receipt.mini_batch)
        cause.attempts += 1
        cause.first_mini_batch = min(cause.first_mini_batch, receipt.mini_batch)
        cause.nodes.add(receipt.node)

    def text(self, snapshot: ProgressSnapshot, now: float) -> str:
        """Return the text at Unix time *now*, s."""
        parts = [self._head(snapshot, now), _count_lines(snapshot.tally), self._pace(snapshot)]
        if self.nodes:
            parts.append("nodes of this execution\n" + "".join(self._node_lines()))
        if self._causes:
            parts.append("failed attempts by cause\n" + "".join(_cause_lines(self._causes.values())))
        return "\n".join(parts)

    def _head(self, snapshot: ProgressSnapshot, now: float) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
        status = "paused" if self.status == "running" and snapshot.is_paused else self.status
        if self.reason:
            status += f": {_one_line(self.reason)}"
        since = f"{at}, after {format_seconds(snapshot.elapsed)}"
        if self.execution > 1:
            since += f", execution {self.execution}"
        return f"run     {self.run_id}\nstep    {self._step}\nstatus  {status}\nas of   {since}\n"

    def _pace(self, snapshot: ProgressSnapshot) -> str:
        rate = snapshot.rate
        line = f"rate    {'unknown yet' if rate is None else f'{rate:.1f} mini-batches/s'}\n"
        return f"{line}to go   {str(snapshot.forecast) or 'unknown yet'}\n" if self.status == "running" else line

    def _node_lines(self) -> Iterable[str]:
        ended = [name for name, node in self.nodes.items() if node.end]
        left_out = set(ended[:-_MAX_OVERVIEW_LINES])
        if left_out:
            yield f"  {len(left_out)} more that were lost or released\n"
        for name, node in sorted(self.nodes.items(), key=lambda entry: (len(entry[0]), entry[0])):
            if name not in left_out:
                figures = f"processes: {node.processes}; attempts: {node.attempts:,}, failed: {node.failed:,}"
                yield f"  {name}: on {node.host}, {figures}{f'; {node.end}' if node.end else ''}\n"


def _count_lines(tally: Tally) -> str:
    not_reached = tally.planned - tally.finished - tally.waiting
    items_not_reached = tally.items - tally.succeeded_items - tally.failed_items - tally.waiting_items
    rows = [
        ("", "planned", "succeeded", "failed", "waiting", "not reached"),
        ("mini-batches", tally.planned, tally.succeeded, tally.failed, tally.waiting, not_reached),
        ("items", tally.items, tally.succeeded_items, tally.failed_items, tally.waiting_items, items_not_reached),
    ]
    lines = [f"{name:<14}" + "".join(f"{value:>14,}" if name else f"{value:>14}" for value in values) for name, *values in rows]
    note = ["(the input is still being listed)"] if tally.is_growing else []
    return "\n".join([*lines, f"{'rows':<14}{'':14}{tally.rows:>14,}", *note]) + "\n"


def _cause_lines(counts: Iterable[_CauseCounts]) -> Iterable[str]:
    ordered = sorted(counts, key=lambda cause: -cause.attempts)
    for cause in ordered[:_MAX_OVERVIEW_LINES]:
        error = _one_line(f"{cause.error_type}: {cause.error}")
        where = f"first mini-batch {cause.first_mini_batch}, on {', '.join(sorted(cause.nodes)[:3])}"
        yield f"  {cause.attempts:,}: {error} ({cause.outcome}; {where})\n"
    if len(ordered) > _MAX_OVERVIEW_LINES:
        yield f"  and {len(ordered) - _MAX_OVERVIEW_LINES} more causes\n"


def _one_line(text: str) -> str:
    line = " ".join(escape_control_chars(text).split())
    return line if len(line) <= _MAX_ERROR else f"{line[:_MAX_ERROR]} …"
