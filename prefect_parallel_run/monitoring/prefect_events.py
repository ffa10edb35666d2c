"""Prefect events of a run, for automations: `prefect-parallel-run.step.<event>`.

Prefect adds the flow run, the task run, the deployment and their tags as related resources. A payload has counts, names and
error messages, as the log does, but no values of environment variables. All events of a step have the resource
`prefect-parallel-run.step.<name>`; the name has the form of an artifact key.
"""

from __future__ import annotations

import time
from typing import Any

from prefect.events import emit_event
from prefect.exceptions import PrefectException

from prefect_parallel_run.errors import LimitExceededError
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.artifacts import artifact_key
from prefect_parallel_run.monitoring.logs import Logger, escape_control_chars
from prefect_parallel_run.monitoring.progress import ProgressTracker
from prefect_parallel_run.runs.events import (
    NodeLost,
    Progressed,
    RunEvent,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
    StepRaised,
    StepReturned,
)

PREFIX = "prefect-parallel-run.step"
_PROGRESS_INTERVAL = 60.0  #: s
_MAX_CHARACTERS = 1_000  #: length of an error message


class PrefectEvents:
    """Emits the Prefect events of one run."""

    def __init__(self, step: str, logger: Logger, tracker: ProgressTracker) -> None:
        self._logger, self._tracker = logger, tracker
        self._resource = {"prefect.resource.id": f"{PREFIX}.{artifact_key(step)}", "prefect.resource.name": step}
        self._next = time.monotonic()
        self._run_id = ""

    def handle(self, event: RunEvent) -> None:
        """Emit the Prefect event for *event*, if there is one."""
        match event:
            case RunStarted(directory, tally):
                self._run_id = directory.run_id
                self._next = time.monotonic() + _PROGRESS_INTERVAL
                self._emit("resumed" if tally.finished or tally.waiting else "started", **_counts(tally))
            case Progressed(tally) if (now := time.monotonic()) >= self._next:
                self._next = now + _PROGRESS_INTERVAL
                remaining = self._tracker.snapshot(tally).forecast.remaining
                self._emit("progressed", **_counts(tally), remaining_seconds=remaining)
            case NodeLost(node):
                self._emit("node-lost", node=node)
            case SchedulingPaused(breach):
                self._emit("held", **breach._asdict())
            case SchedulingResumed():
                self._emit("released")
            case StepReturned(result):
                self._emit("reused" if result.reused else "finished", **result.model_dump(mode="json"))
            case StepRaised(error):
                self._emit_failure(error)

    def _emit_failure(self, error: BaseException) -> None:
        """Emit *failed* (after *limit-exceeded* for an exceeded limit) or *cancelled*."""
        if isinstance(error, LimitExceededError):
            figures = {"limit": error.limit, "allowed": error.allowed, "actual": error.actual}
            self._emit("limit-exceeded", **figures, run_directory=error.run_directory, example=_short(error.example))
        name = "failed" if isinstance(error, Exception) else "cancelled"
        self._emit(name, error_type=type(error).__name__, error=_short(str(error)))

    def _emit(self, name: str, /, **payload: Any) -> None:
        try:
            emit_event(f"{PREFIX}.{name}", self._resource, payload={"run_id": self._run_id, **payload})
        except PrefectException as error:  # Prefect itself logs later that the server is unreachable
            self._logger.warning("cannot emit a Prefect event: %s", error, extra={"action": "warning"})


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "mini_batches_total": tally.planned,
        "mini_batches_succeeded": tally.succeeded,
        "mini_batches_failed": tally.failed,
        "mini_batches_waiting": tally.waiting,
        "items_total": tally.items,
        "items_succeeded": tally.succeeded_items,
        "items_failed": tally.failed_items,
        "rows": tally.rows,
        "input_is_listed": not tally.is_growing,
    }


def _short(text: str) -> str:
    return escape_control_chars(text)[:_MAX_CHARACTERS]
