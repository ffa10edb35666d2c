"""What automations can react to: Prefect events of a run, `prefect-parallel-run.step.<what happened>`.

Prefect adds the flow run, the task run, the deployment and their tags as related resources. Payloads have figures, names and
the words of errors, as the log has them; no values of environment variables. The resource of all events of a step is
`prefect-parallel-run.step.<name>`, in the form of an artifact's key.
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
_PROGRESS_EVERY = 60.0  #: s
_MOST_CHARACTERS = 1_000  #: of an error's text


class RunEvents:
    """Emits the events of one run."""

    def __init__(self, step: str, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._resource = {"prefect.resource.id": f"{PREFIX}.{artifact_key(step)}", "prefect.resource.name": step}
        self._next = clock()
        self._course = ProgressTracker(Tally(), clock)
        self._run_id = ""

    def began(self, run_id: str, tally: Tally, course: ProgressTracker) -> None:
        """Emit *started*, or *resumed* where an earlier driving has left something."""
        self._run_id, self._course = run_id, course
        self._next = self._clock() + _PROGRESS_EVERY
        self._emit("resumed" if tally.finished or tally.waiting else "started", **_counts(tally))

    def progressed(self, tally: Tally) -> None:
        """Emit *progressed*, once a minute."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _PROGRESS_EVERY
            remaining = self._course.going(tally).outlook.remaining
            self._emit("progressed", **_counts(tally), remaining_seconds=remaining)

    def node_left(self, node: str) -> None:
        """Emit *node-lost*."""
        self._emit("node-lost", node=node)

    def held(self, breach: Breach | None) -> None:
        """Emit *held* with the limit that is near, or *released*."""
        if breach is None:
            self._emit("released")
        else:
            self._emit("held", **breach._asdict())

    def ended(self, result: ParallelRunResult) -> None:
        """Emit *finished*, or *reused* where nothing ran."""
        self._emit("reused" if result.reused else "finished", **result.model_dump(mode="json"))

    def failed(self, error: BaseException) -> None:
        """Emit *failed* (for a limit *limit-exceeded* before it), or *cancelled*."""
        if isinstance(error, LimitExceededError):
            figures = {"limit": error.limit, "allowed": error.allowed, "actual": error.actual}
            self._emit("limit-exceeded", **figures, run_directory=error.run_directory, example=_short(error.example))
        name = "failed" if isinstance(error, Exception) else "cancelled"
        self._emit(name, error_type=type(error).__name__, error=_short(str(error)))

    def _emit(self, name: str, /, **payload: Any) -> None:
        try:
            emit_event(f"{PREFIX}.{name}", self._resource, payload={"run_id": self._run_id, **payload})
        except PrefectException as error:  # that a server is away Prefect notes itself, later
            self._logger.warning("Prefect did not take an event: %s", error, extra={"action": "warning"})


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
    return escape_control_chars(text)[:_MOST_CHARACTERS]
