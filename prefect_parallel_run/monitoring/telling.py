"""Who is told what happens in a run of a Prefect task: its log, its artifacts, and automations by events."""

from __future__ import annotations

from prefect_parallel_run.errors import ParallelRunError
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.artifacts import RunArtifacts
from prefect_parallel_run.monitoring.events import RunEvents
from prefect_parallel_run.monitoring.logs import Logger
from prefect_parallel_run.monitoring.watch import LogWatch
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.storage.objects import size_of

_PATIENCE = 10.0  #: s for the last artifacts to be taken
_PATIENCE_IF_CANCELLED = 2.0  #: s, the same: whoever cancels does not want to wait, and Ctrl-C may have ended the server too


class PrefectWatch(LogWatch):
    """Tells log, artifacts and events."""

    def __init__(self, step: str, logger: Logger) -> None:
        super().__init__(step, logger)
        self._artifacts = RunArtifacts(step, logger)
        self._events = RunEvents(step, logger)
        self._patience = _PATIENCE

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """Tell what is about to be done, and what is done already."""
        super().began(run, tally, dashboard)
        self._events.began(run.run_id, tally, self._course)
        self._artifacts.began(run, tally, dashboard, self._course)

    def tried(self, receipt: Receipt, state: str) -> None:
        """Pass it on."""
        super().tried(receipt, state)
        self._artifacts.tried()

    def isolated(self, receipt: Receipt) -> None:
        """Pass it on."""
        super().isolated(receipt)
        if receipt.outcome != "succeeded":
            self._artifacts.tried()

    def progressed(self, tally: Tally) -> None:
        """Pass it on."""
        super().progressed(tally)
        self._artifacts.progressed(tally)
        self._events.progressed(tally)

    def node_left(self, node: str) -> None:
        """Pass it on."""
        super().node_left(node)
        self._events.node_left(node)

    def held(self, breach: Breach | None) -> None:
        """Pass it on."""
        super().held(breach)
        self._events.held(breach)

    def ended(self, ledger: Ledger) -> None:
        """Tell the last counts."""
        super().ended(ledger)
        self._artifacts.ended(ledger)

    def returned(self, result: ParallelRunResult) -> None:
        """Tell how the step ended."""
        self._logger.info("%s", result, extra={"action": "reused" if result.reused else "ended"})
        self._events.ended(result)
        self._artifacts.returned(result)

    def raised(self, error: BaseException) -> None:
        """Tell why the step ended; Prefect logs the error."""
        self._events.failed(error)
        self._artifacts.raised(error)
        if not isinstance(error, Exception):
            self._patience = _PATIENCE_IF_CANCELLED

    def reported(self, report: str) -> None:
        """Show where the report is, at a path or URL, if there is one."""
        try:
            is_there = size_of(report) is not None
        except ParallelRunError as error:  # the store is away: how the step ended is what counts
            self.warned(str(error))
        else:
            if is_there:
                self._artifacts.reported(report)

    def finish(self) -> None:
        """Wait, not for long, until Prefect has taken what is left to tell."""
        self._artifacts.finish(self._patience)
