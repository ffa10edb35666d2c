"""allow_reuse as a Prefect cache policy: a reused run is a task run state named Cached, and nothing runs.

Prefect asks for a cache key when the inputs are known and before the step runs. The key is a hash of the earlier run's result,
and Prefect's result storage holds that result under it; if it is missing (another container, a cleared storage) it is written
first. So the record can never be stale: the run directory decides each time which run applies, whether its output is
unchanged and whether its failures are within the limits, and any difference makes another key. Without an earlier run the key
is new, Prefect stores this run's result under it, and the run receives what has been prepared.

Keys of equal steps that run at the same time differ, or have equal records, so no isolation is needed.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.filesystems import NullFileSystem
from prefect.logging import get_run_logger
from prefect.results import ResultStore, get_result_store
from prefect.settings import get_current_settings

from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.execution.runner import earlier_result
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.events import StepEnded, StepReturned, emit_to
from prefect_parallel_run.runs.mirror import has_complete_copy
from prefect_parallel_run.runs.resolve import ExistingRuns
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.task.cancellation import flush_logs_and_events


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The resolved parameters of a step that is about to run."""

    spec: StepSpec
    target: Target
    existing_runs: ExistingRuns | None = None  #: earlier runs with the same fingerprint, if already known

    def reusable_result(self) -> ParallelRunResult | None:
        """Return the result of an earlier run that can be reused, or None."""
        run = self.existing_runs.answer if self.existing_runs is not None else None
        is_incomplete = run is not None and self.spec.store is not None and not has_complete_copy(run)  # to be completed first
        return None if run is None or is_incomplete else earlier_result(self.spec, run)


_prepared: ContextVar[tuple[uuid.UUID, Future[Prepared]] | None] = ContextVar("_handed_on", default=None)


def prepared_run() -> Prepared | None:
    """Return what was prepared for this task run when its key was computed; raises the error of that time."""
    task, prepared = TaskRunContext.get(), _prepared.get()
    _prepared.set(None)
    is_for_this_run = task is not None and prepared is not None and prepared[0] == task.task_run.id
    return prepared[1].result() if is_for_this_run and prepared is not None else None


def reuse_disabled() -> bool:
    """True if this task run must not reuse an earlier result: Prefect's cache is disabled, or is to be refreshed."""
    context, settings = TaskRunContext.get(), get_current_settings().tasks
    refresh = context.task.refresh_cache if context is not None else None
    return settings.disable_caching or bool(settings.refresh_cache if refresh is None else refresh)


@dataclass
class ReusePolicy(CachePolicy):
    """The cache policy of steps with allow_reuse.

    Attributes:
        prepare: Called with the resolved parameters of the task run; returns the prepared run with its existing runs.
    """

    prepare: Callable[..., Prepared] | None = None  # the base class has fields with defaults

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """Return the key of the earlier result, which Prefect's result storage holds; a new key if there is none."""
        del flow_parameters, kwargs
        if self.prepare is None or task_ctx.task_run.run_count > 1 or reuse_disabled():  # a retry resumes its own run
            return uuid.uuid4().hex
        outcome: Future[Prepared] = Future()
        try:
            prepared = self.prepare(**inputs)
            outcome.set_result(prepared)
            result = prepared.reusable_result()
        except (Exception, TerminationSignal) as error:  # noqa: BLE001  Prefect would only log it here, so the run raises it
            outcome = Future()
            outcome.set_exception(error)
            result = None
        if result is not None and _ensure_stored(key := _key(result), result):
            emit = emit_to(listeners_of(task_ctx.task.name, get_run_logger(), in_prefect=True))
            emit(StepReturned(result))
            emit(StepEnded())
            flush_logs_and_events()
            return key
        _prepared.set((task_ctx.task_run.id, outcome))  # the run follows in the same context
        return uuid.uuid4().hex


def _key(result: ParallelRunResult) -> str:
    return f"parallel-run-{hashlib.sha256(result.model_dump_json().encode()).hexdigest()}"


def _ensure_stored(key: str, result: ParallelRunResult) -> bool:
    """True if Prefect's result storage holds *result* under *key*; writes it if it is missing."""
    store: ResultStore = get_result_store()
    if isinstance(store.metadata_storage, NullFileSystem):  # as Prefect's transactions do
        store = store.model_copy(update={"metadata_storage": None})
    if store.exists(key):
        return True
    try:
        store.write(result, key)
    except Exception as error:  # noqa: BLE001  a storage may raise anything; the step then returns the result itself
        message = "Prefect's result storage cannot store the earlier result, which is returned nevertheless: %s"
        get_run_logger().warning(message, error, extra={"action": "warning"})
        return False
    return store.exists(key)
