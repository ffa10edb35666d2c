"""Who is told what happens in a run: a logger and the files in ``logs``, and where Prefect is at hand its artifacts too."""

from __future__ import annotations

from collections.abc import Sequence

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
from prefect_parallel_run.units import MINI_BATCHES, count


class LogWatch(Observer):
    """Tells a logger, and keeps the files in the run directory's ``logs``."""

    def __init__(self, step: str, logger: Logger) -> None:
        self._step, self._logger = step, logger
        self._course = ProgressTracker(Tally())
        self._log = RunLog(logger)
        self._files: RunFiles | None = None  # until the run has begun

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """Tell what is about to be done, and what is done already."""
        link = f"; Dask dashboard {dashboard}" if dashboard else ""
        words = "%s: %s, %s%s; run directory %s%s"
        more = " so far, the input is still being listed" if tally.is_growing else ""
        counts = (count(tally.planned, *MINI_BATCHES), count(tally.items, "item"), more)
        self._logger.info(words, self._step, *counts, run.path, link, extra={"action": "began"})
        if tally.finished or tally.waiting:
            self._logger.info(
                "going on from the ledger: %d mini-batches are done, %d between two tries",
                tally.finished,
                tally.waiting,
                extra={"action": "resumed"},
            )
        self._course = ProgressTracker(tally)
        self._log = RunLog(self._logger, self._course)
        self._files = RunFiles(run, self._step, tally, self.warned, self._course)

    def ended(self, ledger: Ledger) -> None:
        """Write the last counts; the result, or the error, says the rest."""
        if self._files is not None:
            self._files.ended(ledger.tally())

    def closed(self, status: str, reason: str) -> None:
        """Write how the run ended."""
        if self._files is not None:
            self._files.closed(status, reason)

    def node_joined(self, facts: NodeFacts) -> None:
        """Pass it on."""
        self._course.node_joined(facts)
        self._log.node_joined(facts)
        if self._files is not None:
            self._files.node_joined(facts)

    def node_left(self, node: str) -> None:
        """Pass it on."""
        self._course.node_gone(node)
        self._log.node_left(node)
        if self._files is not None:
            self._files.node_left(node)

    def node_released(self, node: str) -> None:
        """Pass it on."""
        self._course.node_gone(node)
        self._log.node_released(node)
        if self._files is not None:
            self._files.node_released(node)

    def slot_failed(self, node: str, failure: StartFailure) -> None:
        """Pass it on."""
        self._log.slot_failed(node, failure)

    def committed(self, receipts: Sequence[Receipt]) -> None:
        """Pass it on."""
        self._course.committed(receipts)
        if self._files is not None:
            self._files.committed(receipts)

    def tried(self, receipt: Receipt, state: str) -> None:
        """Pass it on."""
        self._log.tried(receipt, state)

    def isolated(self, receipt: Receipt) -> None:
        """Pass it on."""
        if self._files is not None:
            self._files.isolated(receipt)

    def progressed(self, tally: Tally) -> None:
        """Pass it on."""
        self._log.progressed(tally)
        if self._files is not None:
            self._files.progressed(tally)

    def script_said(self, line: ScriptLine) -> None:
        """Pass it on."""
        self._log.script_said(line)

    def script_left_out(self, lines: int) -> None:
        """Pass it on."""
        self._log.script_left_out(lines)

    def held(self, breach: Breach | None) -> None:
        """Pass it on."""
        self._course.held(breach)
        self._log.held(breach)

    def ordered(self, order: str, by: str, answer: str) -> None:
        """Pass it on."""
        self._log.ordered(order, by, answer)

    def paused(self, is_paused: bool) -> None:
        """Take note of it: progress has nothing to tell meanwhile, and no rate."""
        self._course.paused(is_paused)

    def noted(self, text: str) -> None:
        """Pass it on."""
        self._log.noted(text)

    def warned(self, text: str) -> None:
        """Pass it on."""
        self._log.warned(text)
