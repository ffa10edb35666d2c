"""Reports a run of a Prefect task: its log, its artifacts, and Prefect events for automations."""

from __future__ import annotations

from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.models import Breach, Outcome, Receipt, Tally
from prefect_parallel_run.monitoring.artifacts import RunArtifacts
from prefect_parallel_run.monitoring.events import RunEvents
from prefect_parallel_run.monitoring.logs import Logger
from prefect_parallel_run.monitoring.watch import LogListener
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.storage.objects import size_of

_PATIENCE = 10.0  #: s to wait until the last artifacts are sent
_PATIENCE_IF_CANCELLED = 2.0  #: s, after a cancellation: Ctrl-C may have stopped the server too


class PrefectListener(LogListener):
    """Reports to the log, the log files, Prefect artifacts and Prefect events."""

    def __init__(self, step: str, logger: Logger) -> None:
        super().__init__(step, logger)
        self._artifacts = RunArtifacts(step, logger)
        self._events = RunEvents(step, logger)
        self._patience = _PATIENCE

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """Report the planned mini-batches and those already finished."""
        super().began(run, tally, dashboard)
        self._events.began(run.run_id, tally, self._tracker)
        self._artifacts.began(run, tally, dashboard, self._tracker)

    def tried(self, receipt: Receipt, state: str) -> None:
        """Report a failed attempt."""
        super().tried(receipt, state)
        self._artifacts.tried()

    def isolated(self, receipt: Receipt) -> None:
        """Report an attempt at some items of a mini-batch."""
        super().isolated(receipt)
        if receipt.outcome != Outcome.SUCCEEDED:
            self._artifacts.tried()

    def progressed(self, tally: Tally) -> None:
        """Report the current counts."""
        super().progressed(tally)
        self._artifacts.progressed(tally)
        self._events.progressed(tally)

    def node_left(self, node: str) -> None:
        """Report a lost node."""
        super().node_left(node)
        self._events.node_left(node)

    def held(self, breach: Breach | None) -> None:
        """Report that scheduling is on hold near a limit, or resumed."""
        super().held(breach)
        self._events.held(breach)

    def ended(self, ledger: Ledger) -> None:
        """Report the final counts."""
        super().ended(ledger)
        self._artifacts.ended(ledger)

    def returned(self, result: ParallelRunResult) -> None:
        """Report the result of the step."""
        self._logger.info("%s", result, extra={"action": "reused" if result.reused else "ended"})
        self._events.ended(result)
        self._artifacts.returned(result)

    def raised(self, error: BaseException) -> None:
        """Report the error that ended the step; Prefect logs it."""
        self._events.failed(error)
        self._artifacts.raised(error)
        if not isinstance(error, Exception):
            self._patience = _PATIENCE_IF_CANCELLED

    def reported(self, report: str) -> None:
        """Publish the location of the report, a path or URL, if it exists."""
        try:
            exists = size_of(report) is not None
        except ParallelRunError as error:  # an unreachable store must not hide how the step ended
            self.warned(str(error))
        else:
            if exists:
                self._artifacts.reported(report)

    def finish(self) -> None:
        """Wait a few seconds until the remaining artifacts are sent."""
        self._artifacts.finish(self._patience)
