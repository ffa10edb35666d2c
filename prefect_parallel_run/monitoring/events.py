"""Prefect events of a run, for automations: `prefect-parallel-run.step.<event>`.

Prefect adds the flow run, the task run, the deployment and their tags as related resources. A payload has counts, names and
error messages, as the log does, but no values of environment variables. All events of a step have the resource
`prefect-parallel-run.step.<name>`; the name is written like an artifact key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prefect.events import emit_event
from prefect.exceptions import PrefectException

from prefect_parallel_run.errors import LimitExceededError
from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.monitoring.artifacts import artifact_key
from prefect_parallel_run.monitoring.logs import Logger, escape_control_chars
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.result import ParallelRunResult

PREFIX = "prefect-parallel-run.step"
_PROGRESS_INTERVAL = 60.0  #: s
_MAX_CHARACTERS = 1_000  #: of an error message


class RunEvents:
    """Emits the events of one run."""

    def __init__(self, step: str, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._resource = {"prefect.resource.id": f"{PREFIX}.{artifact_key(step)}", "prefect.resource.name": step}
        self._next = clock()
        self._tracker = ProgressTracker(Tally(), clock)
        self._run_id = ""

    def began(self, run_id: str, tally: Tally, tracker: ProgressTracker) -> None:
        """Emit *started*, or *resumed* when an earlier execution finished or attempted mini-batches."""
        self._run_id, self._tracker = run_id, tracker
        self._next = self._clock() + _PROGRESS_INTERVAL
        self._emit("resumed" if tally.finished or tally.waiting else "started", **_counts(tally))

    def progressed(self, tally: Tally) -> None:
        """Emit *progressed* at most once a minute."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _PROGRESS_INTERVAL
            remaining = self._tracker.snapshot(tally).forecast.remaining
            self._emit("progressed", **_counts(tally), remaining_seconds=remaining)

    def node_left(self, node: str) -> None:
        """Emit *node-lost*."""
        self._emit("node-lost", node=node)

    def held(self, breach: Breach | None) -> None:
        """Emit *held* with the limit that is near, or *released* for None."""
        if breach is None:
            self._emit("released")
        else:
            self._emit("held", **breach._asdict())

    def ended(self, result: ParallelRunResult) -> None:
        """Emit *finished*, or *reused* for the result of an earlier run."""
        self._emit("reused" if result.reused else "finished", **result.model_dump(mode="json"))

    def failed(self, error: BaseException) -> None:
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
