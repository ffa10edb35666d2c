"""The files in ``logs`` that the flow process writes during an execution.

``job_progress_overview.txt`` is for people and rewritten every few seconds. ``processed_mini-batches.csv`` has one row per
finished attempt at a whole mini-batch and always agrees with the ledger; it is the only file that grows with the plan.
``progress.csv`` has the counts: one line per second at first, then less and less often; the second execution writes
``r2.progress.csv``, and so on.

A file that cannot be written causes one warning and is abandoned; the run continues, because the ledger has everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prefect_parallel_run._atomic import AtomicFile
from prefect_parallel_run._rate_limit import BackoffTimer
from prefect_parallel_run.models import Outcome, Receipt, Tally, execution_prefix
from prefect_parallel_run.monitoring import processed
from prefect_parallel_run.monitoring.overview import CauseCounts, NodeCounts, Overview
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.node.settings import NodeFacts
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
    """The log files of one execution of a run.

    Args:
        run: Its run directory.
        step: Name of the step.
        tally: Counts at the start of the execution.
        warned: Called with a warning, once for each file that cannot be written.
        tracker: Progress of the execution.
        clock: Monotonic clock, s.
    """

    def __init__(
        self,
        run: RunDirectory,
        step: str,
        tally: Tally,
        warned: Callable[[str], None],
        tracker: ProgressTracker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._step, self._tally, self._clock = run, step, tally, clock
        self._tracker = tracker or ProgressTracker(tally, clock)
        self._status = ("running", "")
        self._nodes: dict[str, NodeCounts] = {}
        self._causes: dict[str, CauseCounts] = {}  # by fingerprint
        self._processed, self._overview = _File(run.logs / PROCESSED, warned), _File(run.logs / OVERVIEW, warned)
        with Ledger(run.ledger) as ledger:
            self._execution = int(ledger.metadata().get("drives", "1"))
            self._processed.replace([processed.HEADER, *([] if ledger.is_empty() else processed.rows_in(ledger))])
            for cause in causes(ledger, _MAX_CAUSES):
                example = (cause.outcome, cause.error_type, cause.error, cause.first_mini_batch)
                self._causes[cause.fingerprint] = CauseCounts(*example, cause.tries, set(cause.nodes.split(",")))
        self._progress = _File(run.logs / f"{execution_prefix(self._execution)}{PROGRESS}", warned)
        self._progress.append(PROGRESS_HEADER)
        self._timer = BackoffTimer(clock())
        self._next_overview = clock()

    def node_joined(self, node_info: NodeFacts) -> None:
        """Record a node that opened."""
        self._nodes[node_info.node] = NodeCounts(node_info.host, node_info.slots)

    def node_left(self, node: str) -> None:
        """Record a lost node."""
        self._node(node).end = "lost"

    def node_released(self, node: str) -> None:
        """Record a released node."""
        self._node(node).end = "released"

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Write the attempts of one commit in one write; all of them ran on one node."""
        self._processed.append(processed.rows_of(receipts))
        for receipt in receipts:
            self._count(receipt)

    def isolated(self, receipt: Receipt) -> None:
        """Count an attempt at some items of a mini-batch."""
        self._count(receipt)

    def progressed(self, tally: Tally) -> None:
        """Write the counts and the overview when they are due."""
        self._tally, now = tally, self._clock()
        if self._timer.is_due(now):
            self._write_progress()
        if now >= self._next_overview:
            self._next_overview = now + _OVERVIEW_INTERVAL
            self._write_overview()

    def ended(self, tally: Tally) -> None:
        """Write the final counts of the execution."""
        self._tally = tally
        self._write_progress()
        self._write_overview()

    def closed(self, status: str, reason: str) -> None:
        """Write the final status, after the result was published or given up."""
        self._status = (status, reason)
        self._write_overview()

    def _node(self, name: str) -> NodeCounts:
        return self._nodes.setdefault(name, NodeCounts())

    def _count(self, receipt: Receipt) -> None:
        node = self._node(receipt.node)
        node.attempts += 1
        if receipt.outcome != Outcome.SUCCEEDED:
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

    def __init__(self, path: Path, warned: Callable[[str], None]) -> None:
        self._path, self._warned = path, warned
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
                self._warned(f"stopped writing {self._path}: {error.strerror or error}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
