"""Reports a run to a logger and to the files in ``logs``; works without Prefect."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_parallel_run._units import MINI_BATCHES, count
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.script_logs import ScriptLine
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.log_files import RunFiles
from prefect_parallel_run.monitoring.logs import Logger, RunLog
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


class LogListener(Observer):
    """Logs the events of a run and writes the files in the run directory's ``logs``."""

    def __init__(self, step: str, logger: Logger) -> None:
        self._step, self._logger = step, logger
        self._tracker = ProgressTracker(Tally())
        self._log = RunLog(logger)
        self._files: RunFiles | None = None  # None until the run starts

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """Report the planned mini-batches and those already finished."""
        link = f"; Dask dashboard {dashboard}" if dashboard else ""
        message = "%s: %s, %s%s; run directory %s%s"
        suffix = " so far, the input is still being listed" if tally.is_growing else ""
        counts = (count(tally.planned, *MINI_BATCHES), count(tally.items, "item"), suffix)
        self._logger.info(message, self._step, *counts, run.path, link, extra={"action": "began"})
        if tally.finished or tally.waiting:
            self._logger.info(
                "resuming: %d of %d mini-batches already finished, %d awaiting retry",
                tally.finished,
                tally.planned,
                tally.waiting,
                extra={"action": "resumed"},
            )
        self._tracker = ProgressTracker(tally)
        self._log = RunLog(self._logger, self._tracker)
        self._files = RunFiles(run, self._step, tally, self.warned, self._tracker)

    def ended(self, ledger: Ledger) -> None:
        """Write the final counts; the result or the error is reported elsewhere."""
        if self._files is not None:
            self._files.ended(ledger.tally())

    def closed(self, status: str, reason: str) -> None:
        """Write the final status and its reason."""
        if self._files is not None:
            self._files.closed(status, reason)

    def node_joined(self, node_info: NodeFacts) -> None:
        """Report a node that opened."""
        self._tracker.node_joined(node_info)
        self._log.node_joined(node_info)
        if self._files is not None:
            self._files.node_joined(node_info)

    def node_left(self, node: str) -> None:
        """Report a lost node."""
        self._tracker.node_removed(node)
        self._log.node_left(node)
        if self._files is not None:
            self._files.node_left(node)

    def node_released(self, node: str) -> None:
        """Report a released node."""
        self._tracker.node_removed(node)
        self._log.node_released(node)
        if self._files is not None:
            self._files.node_released(node)

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """Report a process that could not start."""
        self._log.slot_failed(node, failure)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Report committed attempts."""
        self._tracker.committed(receipts)
        if self._files is not None:
            self._files.committed(receipts)

    def tried(self, receipt: Receipt, state: str) -> None:
        """Report a failed attempt."""
        self._log.tried(receipt, state)

    def isolated(self, receipt: Receipt) -> None:
        """Report an attempt at some items of a mini-batch."""
        if self._files is not None:
            self._files.isolated(receipt)

    def progressed(self, tally: Tally) -> None:
        """Report the current counts."""
        self._log.progressed(tally)
        if self._files is not None:
            self._files.progressed(tally)

    def script_said(self, line: ScriptLine) -> None:
        """Report a line that the entry script logged."""
        self._log.script_said(line)

    def script_left_out(self, lines: int) -> None:
        """Report how many lines of the entry script were left out."""
        self._log.script_left_out(lines)

    def held(self, breach: Breach | None) -> None:
        """Report that scheduling is on hold near a limit, or resumed."""
        self._tracker.held(breach)
        self._log.held(breach)

    def ordered(self, order: str, by: str, answer: str) -> None:
        """Report a control command and its result."""
        self._log.ordered(order, by, answer)

    def paused(self, is_paused: bool) -> None:
        """Record a pause or its end: a paused run logs no progress and has no rate."""
        self._tracker.paused(is_paused)

    def noted(self, text: str) -> None:
        """Report information."""
        self._log.noted(text)

    def warned(self, text: str) -> None:
        """Report a warning."""
        self._log.warned(text)
