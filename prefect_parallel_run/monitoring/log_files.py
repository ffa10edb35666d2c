"""The files in ``logs`` that the flow process writes during an execution.

``job_progress_overview.txt`` is for people and rewritten every few seconds. ``processed_mini-batches.csv`` has one row per
finished attempt at a whole mini-batch and always agrees with the ledger; it is the only file that grows with the plan.
``progress.csv`` has the counts: one line per second at first, then less and less often; the second execution writes
``r2.progress.csv``, and so on.

A file that cannot be written causes one warning and is abandoned; the run continues, because the ledger has everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prefect_parallel_run._backoff import BackoffTimer
from prefect_parallel_run.models import Receipt, Tally, execution_prefix
from prefect_parallel_run.monitoring import processed
from prefect_parallel_run.monitoring.logs import Logger, log_warning
from prefect_parallel_run.monitoring.overview import CauseCounts, NodeCounts, Overview
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
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


class RunFiles:
    """Writes the log files of one execution of a run.

    Args:
        step: Name of the step.
        logger: Receives a warning, once for each file that cannot be written.
        tracker: Progress of the execution.
        clock: Monotonic clock, s.
    """

    _run: RunDirectory  # this and the files are set when the run starts
    _processed: _File
    _overview: _File
    _progress: _File

    def __init__(
        self, step: str, logger: Logger, tracker: ProgressTracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._step, self._logger, self._tracker, self._clock = step, logger, tracker, clock
        self._tally, self._status = Tally(), ("running", "")
        self._execution = 0
        self._nodes: dict[str, NodeCounts] = {}
        self._causes: dict[str, CauseCounts] = {}  # by fingerprint
        self._timer, self._next_overview = BackoffTimer(clock()), clock()

    def handle(self, event: RunEvent) -> None:
        """Write what *event* changes; nothing before the run starts."""
        if isinstance(event, RunStarted):
            self._start(event.directory, event.tally)
        elif self._execution:
            self._write(event)

    def _start(self, run: RunDirectory, tally: Tally) -> None:
        """Open the files; the rows of earlier executions are written again from the ledger."""
        self._run, self._tally = run, tally
        self._processed, self._overview = _File(run.logs / PROCESSED, self._logger), _File(run.logs / OVERVIEW, self._logger)
        with Ledger(run.ledger) as ledger:
            self._execution = int(ledger.facts().get("drives", "1"))
            self._processed.replace([processed.HEADER, *([] if ledger.is_empty() else processed.rows_in(ledger))])
            for cause in causes(ledger, _MAX_CAUSES):
                example = (cause.outcome, cause.error_type, cause.error, cause.first_mini_batch)
                self._causes[cause.fingerprint] = CauseCounts(*example, cause.tries, set(cause.nodes.split(",")))
        self._progress = _File(run.logs / f"{execution_prefix(self._execution)}{PROGRESS}", self._logger)
        self._progress.append(PROGRESS_HEADER)
        self._timer, self._next_overview = BackoffTimer(self._clock()), self._clock()

    def _write(self, event: RunEvent) -> None:
        match event:
            case NodeJoined(facts):
                self._nodes[facts.node] = NodeCounts(facts.host, facts.slots)
            case NodeLost(node):
                self._node(node).end = "lost"
            case NodeReleased(node):
                self._node(node).end = "released"
            case ReceiptsCommitted(receipts):  # in one write: all of them ran on one node
                self._processed.append(processed.rows_of(receipts))
                for receipt in receipts:
                    self._count(receipt)
            case PieceFinished(receipt):
                self._count(receipt)
            case Progressed(tally):
                self._tally = tally
                self._write_due()
            case ExecutionEnded(tally):
                self._tally = tally
                self._write_progress()
                self._write_overview()
            case RunFinished(status, reason):
                self._status = (status, reason)
                self._write_overview()

    def _write_due(self) -> None:
        now = self._clock()
        if self._timer.is_due(now):
            self._write_progress()
        if now >= self._next_overview:
            self._next_overview = now + _OVERVIEW_INTERVAL
            self._write_overview()

    def _node(self, name: str) -> NodeCounts:
        return self._nodes.setdefault(name, NodeCounts())

    def _count(self, receipt: Receipt) -> None:
        node = self._node(receipt.node)
        node.attempts += 1
        if receipt.outcome != "succeeded":
            node.failed += 1
            self._count_cause(receipt)

    def _count_cause(self, receipt: Receipt) -> None:
        cause = self._causes.get(receipt.fingerprint)
        if cause is None:
            if len(self._causes) >= _MAX_CAUSES:
                return
            example = (receipt.outcome, receipt.error_type, receipt.error)
            cause = self._causes[receipt.fingerprint] = CauseCounts(*example, receipt.mini_batch)
        cause.attempts += 1
        cause.first_mini_batch = min(cause.first_mini_batch, receipt.mini_batch)
        cause.nodes.add(receipt.node)

    def _write_progress(self) -> None:
        tally = self._tally
        remaining = self._tracker.snapshot(tally).forecast.remaining
        counts = (tally.planned, tally.finished, tally.succeeded, tally.failed, tally.waiting)
        values = (
            *counts,
            tally.succeeded_items,
            tally.failed_items,
            tally.rows,
            "" if remaining is None else f"{remaining:.1f}",
        )
        self._progress.append(f"{time.time():.3f},{','.join(map(str, values))}\n")

    def _write_overview(self) -> None:
        status, reason = self._status
        overview = Overview(
            run=self._run.run_id,
            step=self._step,
            status=status,
            reason=reason,
            execution=self._execution,
            now=time.time(),
            snapshot=self._tracker.snapshot(self._tally),
            nodes=self._nodes,
            causes=list(self._causes.values()),
        )
        self._overview.replace([overview.text()])


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
            temporary = self._path.with_name(f".{self._path.name}.tmp")  # the run lock admits one writer
            try:
                with temporary.open("wb") as file:
                    file.writelines(map(_bytes, blocks))
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)

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
