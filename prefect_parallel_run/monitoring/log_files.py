"""The files in ``logs`` that the flow process writes while it drives a run, whoever started it.

``job_progress_overview.txt`` is for people: written anew every few seconds. ``processed_mini-batches.csv`` has a row per
finished try of a whole mini-batch, and always agrees with the ledger; it grows with the plan, and nothing else does.
``progress.csv`` has the counts, a line every second at first, then ever more rarely; a second drive writes
``r2.progress.csv``, and so on.

A disk that refuses one of them is told once, and ends that file, not the run: what counts is in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prefect_parallel_run._backoff import BackoffTimer
from prefect_parallel_run.models import Receipt, Tally, drive_prefix
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
_OVERVIEW_EVERY = 5.0  #: s
_CAUSES = 200  #: that are counted apart in the overview; the ledger has all


class RunFiles:
    """Those of one drive of a run.

    Args:
        run: Its directory.
        step: Its name.
        tally: Counts as the drive begins.
        warned: Told, once for each file, that a disk refuses it.
        course: Of the drive.
        clock: Monotonic, s.
    """

    def __init__(
        self,
        run: RunDirectory,
        step: str,
        tally: Tally,
        warned: Callable[[str], None],
        course: ProgressTracker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._step, self._tally, self._clock = run, step, tally, clock
        self._course = course or ProgressTracker(tally, clock)
        self._status = ("running", "")
        self._nodes: dict[str, NodeCounts] = {}
        self._causes: dict[str, CauseCounts] = {}  # by fingerprint
        self._processed, self._overview = _File(run.logs / PROCESSED, warned), _File(run.logs / OVERVIEW, warned)
        with Ledger(run.ledger) as ledger:
            self._drive = int(ledger.facts().get("drives", "1"))
            self._processed.replace([processed.HEADER, *([] if ledger.is_empty() else processed.rows_in(ledger))])
            for cause in causes(ledger, _CAUSES):
                words = (cause.outcome, cause.error_type, cause.error, cause.first_mini_batch)
                self._causes[cause.fingerprint] = CauseCounts(*words, cause.tries, set(cause.nodes.split(",")))
        self._progress = _File(run.logs / f"{drive_prefix(self._drive)}{PROGRESS}", warned)
        self._progress.append(PROGRESS_HEADER)
        self._pace = BackoffTimer(clock())
        self._next_overview = clock()

    def node_joined(self, facts: NodeFacts) -> None:
        """Take note that a node opened."""
        self._nodes[facts.node] = NodeCounts(facts.host, facts.slots)

    def node_left(self, node: str) -> None:
        """Take note that a node was lost."""
        self._node(node).end = "lost"

    def node_released(self, node: str) -> None:
        """Take note that a node was given back."""
        self._node(node).end = "given back"

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Write the tries of one commit, in one go; all of them ran on one node."""
        self._processed.append(processed.rows_of(receipts))
        for receipt in receipts:
            self._count(receipt)

    def isolated(self, receipt: Receipt) -> None:
        """Take note of a try of some items of a mini-batch."""
        self._count(receipt)

    def progressed(self, tally: Tally) -> None:
        """Write counts and overview, when they are due."""
        self._tally, now = tally, self._clock()
        if self._pace.is_due(now):
            self._write_progress()
        if now >= self._next_overview:
            self._next_overview = now + _OVERVIEW_EVERY
            self._write_overview()

    def ended(self, tally: Tally) -> None:
        """Write the last counts of the drive."""
        self._tally = tally
        self._write_progress()
        self._write_overview()

    def closed(self, status: str, reason: str) -> None:
        """Write how the run ended; the result is published, or will not be."""
        self._status = (status, reason)
        self._write_overview()

    def _node(self, name: str) -> NodeCounts:
        return self._nodes.setdefault(name, NodeCounts())

    def _count(self, receipt: Receipt) -> None:
        node = self._node(receipt.node)
        node.tries += 1
        if receipt.outcome != "succeeded":
            node.failed += 1
            self._count_cause(receipt)

    def _count_cause(self, receipt: Receipt) -> None:
        cause = self._causes.get(receipt.fingerprint)
        if cause is None:
            if len(self._causes) >= _CAUSES:
                return
            words = (receipt.outcome, receipt.error_type, receipt.error)
            cause = self._causes[receipt.fingerprint] = CauseCounts(*words, receipt.mini_batch)
        cause.tries += 1
        cause.first_mini_batch = min(cause.first_mini_batch, receipt.mini_batch)
        cause.nodes.add(receipt.node)

    def _write_progress(self) -> None:
        tally = self._tally
        left = self._course.going(tally).outlook.remaining
        counts = (tally.planned, tally.finished, tally.succeeded, tally.failed, tally.waiting)
        values = (*counts, tally.succeeded_items, tally.failed_items, tally.rows, "" if left is None else f"{left:.1f}")
        self._progress.append(f"{time.time():.3f},{','.join(map(str, values))}\n")

    def _write_overview(self) -> None:
        status, reason = self._status
        overview = Overview(
            run=self._run.run_id,
            step=self._step,
            status=status,
            reason=reason,
            drive=self._drive,
            now=time.time(),
            going=self._course.going(self._tally),
            nodes=self._nodes,
            causes=list(self._causes.values()),
        )
        self._overview.replace([overview.text()])


class _File:
    """A file that is written as long as the disk takes it."""

    def __init__(self, path: Path, warned: Callable[[str], None]) -> None:
        self._path, self._warned = path, warned
        self._is_writable = True

    def append(self, text: str) -> None:
        """Write *text* behind the rest, in one write."""

        def append() -> None:
            with self._path.open("ab", buffering=0) as file:
                file.write(_bytes(text))

        self._attempt(append)

    def replace(self, texts: Iterable[str]) -> None:
        """Write *texts* in the file's place: it is never seen half written."""

        def replace() -> None:
            beside = self._path.with_name(f".{self._path.name}.tmp")  # one process at a time drives a run
            try:
                with beside.open("wb") as file:
                    file.writelines(map(_bytes, texts))
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)

        self._attempt(replace)

    def _attempt(self, do: Callable[[], None]) -> None:
        if self._is_writable:
            try:
                do()
            except OSError as error:
                self._is_writable = False
                self._warned(f"{self._path} is not written any more: {error.strerror or error}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
