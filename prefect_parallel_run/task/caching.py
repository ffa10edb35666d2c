"""allow_reuse as a cache policy of Prefect's: a run that need not be repeated is a state named Cached, and nothing runs.

Prefect asks for a key when the inputs are known and before the step runs. It gets one that is made of the earlier run's result,
and in Prefect's result storage lies that very result; where it does not (another container, a storage that was cleared) it is
put there first. So the record can never be stale: which run it is of, whether its output is unaltered and what is forgiven
is found out from the run directory each time, and any change there makes another key. Without an earlier run the key is a
new one, under which Prefect keeps the result of this one; what was found out meanwhile goes to the run.

Keys of equal steps that run at the same time differ, or have equal records: no isolation is needed.
Source: CONTRACT.md 2, allow_reuse.
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
from prefect_parallel_run.monitoring.telling import PrefectWatch
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.mirror import is_copied
from prefect_parallel_run.runs.resolve import ExistingRuns
from prefect_parallel_run.runs.spec import StepSpec
from prefect_parallel_run.task.cancellation import send_what_was_told


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A step that is about to run."""

    spec: StepSpec
    target: Target
    look: ExistingRuns | None = None  #: what there is of it already, where that has been looked for

    def answer(self) -> ParallelRunResult | None:
        """Return the earlier result that is the step's, or None."""
        found = self.look.answer if self.look is not None else None
        if found is None or (self.spec.store is not None and not is_copied(found)):  # its copy has to be made whole first
            return None
        return earlier_result(self.spec, found)


_handed_on: ContextVar[tuple[uuid.UUID, Future[Prepared]] | None] = ContextVar("_handed_on", default=None)


def taken_over() -> Prepared | None:
    """Return what was prepared for this task run when its key was asked for; raises what went wrong then."""
    task, handed_on = TaskRunContext.get(), _handed_on.get()
    _handed_on.set(None)
    is_for_it = task is not None and handed_on is not None and handed_on[0] == task.task_run.id
    return handed_on[1].result() if is_for_it and handed_on is not None else None


def is_refused() -> bool:
    """True where this task run should not return an earlier result: caches are to be refreshed, or not to be used."""
    context, settings = TaskRunContext.get(), get_current_settings().tasks
    wanted = context.task.refresh_cache if context is not None else None
    return settings.disable_caching or bool(settings.refresh_cache if wanted is None else wanted)


@dataclass
class ReusePolicy(CachePolicy):
    """The cache policy of steps with allow_reuse.

    Attributes:
        prepare: Called with the resolved parameters of the task run; returns what is about to run, looked for.
    """

    prepare: Callable[..., Prepared] | None = None  # Prefect's base has defaults

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        """Return the key of the earlier result, which then is in Prefect's result storage; a new one without any."""
        del flow_parameters, kwargs
        if self.prepare is None or task_ctx.task_run.run_count > 1 or is_refused():  # a retry goes on with what it began
            return uuid.uuid4().hex
        outcome: Future[Prepared] = Future()
        try:
            prepared = self.prepare(**inputs)
            outcome.set_result(prepared)
            result = prepared.answer()
        except (Exception, TerminationSignal) as error:  # noqa: BLE001  Prefect would only log it here; the run raises it
            outcome = Future()
            outcome.set_exception(error)
            result = None
        if result is not None and _is_kept(key := _key(result), result):
            watch = PrefectWatch(task_ctx.task.name, get_run_logger())
            watch.returned(result)
            watch.finish()
            send_what_was_told()
            return key
        _handed_on.set((task_ctx.task_run.id, outcome))  # the run follows in the same context
        return uuid.uuid4().hex


def _key(result: ParallelRunResult) -> str:
    return f"parallel-run-{hashlib.sha256(result.model_dump_json().encode()).hexdigest()}"


def _is_kept(key: str, result: ParallelRunResult) -> bool:
    """True when Prefect will find *result* under *key*; it is put there if need be."""
    store: ResultStore = get_result_store()
    if isinstance(store.metadata_storage, NullFileSystem):  # as Prefect's transactions do
        store = store.model_copy(update={"metadata_storage": None})
    if store.exists(key):
        return True
    try:
        store.write(result, key)
    except Exception as error:  # noqa: BLE001  a storage may raise anything; the step then returns the result itself
        words = "Prefect's result storage does not take the earlier result, which is returned nevertheless: %s"
        get_run_logger().warning(words, error, extra={"action": "warning"})
        return False
    return store.exists(key)
