"""ParallelRunStep: parallel batch processing as one Prefect task."""

from __future__ import annotations

import asyncio
import inspect
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings
from typing_extensions import Self

from prefect_parallel_run._units import is_int
from prefect_parallel_run.azureml.settings import apply_azure_settings
from prefect_parallel_run.child.functions import StepFunctions, hook_names
from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.compute.blocks import resolve_compute_target, resolve_environment_variables, resolve_reference
from prefect_parallel_run.compute.cluster_class import load_class
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.compute.resolve import parse_target, resolve_target
from prefect_parallel_run.compute.scheduler import enclosing_target
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.errors import ComputeTargetError, ParallelRunError
from prefect_parallel_run.execution.runner import Callbacks, run_step
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.monitoring.logs import Logger
from prefect_parallel_run.output.reduction import Reduction, reduce
from prefect_parallel_run.planning.inputs import (
    check_arguments,
    fill_placeholders,
    from_result,
    normalize_inputs,
    resolve_output,
    resolve_side_inputs,
)
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.events import (
    Emit,
    ReportWritten,
    RunEvent,
    RunStarted,
    StepEnded,
    StepRaised,
    StepReturned,
    Warned,
    emit_to,
)
from prefect_parallel_run.runs.resolve import ResumeRequest, find_existing_runs, has_existing_runs
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import Reuse, ScriptParameters, StepSpec, interpreter_for
from prefect_parallel_run.storage.objects import size_of
from prefect_parallel_run.task.caching import Prepared, ReusePolicy, prepared_run, reuse_disabled
from prefect_parallel_run.task.cancellation import Cancellation, flush_when_detached
from prefect_parallel_run.task.mapping import refuses_shared_outputs
from prefect_parallel_run.task.result_serializer import RESULT_SERIALIZER
from prefect_parallel_run.task.task_names import task_run_name
from prefect_parallel_run.task.temporary_server import explains_start_timeout

if TYPE_CHECKING:
    from prefect_parallel_run.execution.trial import TrialResult

_OWN_CACHING = {"cache_policy", "cache_key_fn", "result_storage_key"}  #: options that replace the step's own caching
TASK_OPTIONS = inspect.signature(Task).parameters.keys()  #: what Prefect accepts; some are fields of the configuration too
_SET_IT = "set it in the ParallelRunConfig, or in the parentheses of @parallel_run"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}")


class ParallelRunStep(Task[..., ParallelRunResult]):
    """A Prefect task that runs an entry script over its inputs, mini-batch by mini-batch, on a Dask cluster.

    Called in a flow it returns a ParallelRunResult. ``.submit()``, ``.map()``, ``.with_options()`` and ``wait_for`` behave as
    for any task, and ``step(inputs=…, output=…, side_inputs=…, arguments=…)`` overrides the values given here. These values
    may be futures and results of other tasks.

    Args:
        name: Name of the step; letters, digits, blanks, ``_``, ``.`` and ``-``.
        parallel_run_config: How to run.
        inputs: One or more of one kind: datasets, paths, folders, globs, URLs, results of other steps.
        output: Folder or URL for the result and the run directory; required for append_row.
        side_inputs: Mapping of name to path (or a list of named datasets) of what every process needs in full; not split.
        arguments: Arguments of the script, as on a command line; ``{output}``, ``{inputs.NAME}`` and ``{side_inputs.NAME}``
            are replaced by paths.
        allow_reuse: Return the earlier result if script, arguments, inputs and configuration are the same and the output
            is unchanged.
        task_options: Further options of a Prefect task (tags, retry_delay_seconds, …). ``retries=n`` means
            ``run_max_try = n + 1``.

    Raises:
        ValueError: The name or the arguments are invalid, or the configuration requires something that is not supported.
    """

    _functions: StepFunctions | None = None  #: set by a FunctionStep

    def __init__(
        self,
        name: str,
        parallel_run_config: ParallelRunConfig,
        inputs: Any = None,
        output: Any = None,
        side_inputs: Any = None,
        arguments: Any = None,
        allow_reuse: bool = True,
        **task_options: Any,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"name: expected letters, digits, blanks, '_', '.' and '-', got {name!r}")
        check_arguments(arguments)
        _check_target(parallel_run_config)
        if fields := sorted(task_options.keys() & ParallelRunConfig.model_fields.keys() - TASK_OPTIONS):
            raise ValueError(f"{fields[0]} is a field of the configuration, not an option of a task; {_SET_IT}")
        if (retries := task_options.pop("retries", None)) is not None:
            if not is_int(retries) or retries < 0:
                raise ValueError(f"retries: expected 0 or a positive integer, got {retries!r}")
            parallel_run_config = parallel_run_config.model_copy(update={"run_max_try": retries + 1})
        self.parallel_run_config = parallel_run_config
        self._defaults = {
            "inputs": inputs,
            "output": output,
            "side_inputs": side_inputs,
            "arguments": arguments,
            "allow_reuse": allow_reuse,
        }
        self._task_options = task_options
        is_ours = not (_OWN_CACHING & task_options.keys())  # otherwise only the user's policy applies
        prepare = _Preparation(name, parallel_run_config, allow_reuse and is_ours, self._functions)
        caching: dict[str, Any] = {"cache_policy": NO_CACHE}  # Prefect's default key ignores the configuration
        if not is_ours:
            caching = {}
        elif allow_reuse and task_options.get("persist_result") is not False:
            caching = {"cache_policy": ReusePolicy(prepare=prepare), "result_serializer": RESULT_SERIALIZER}
        options = {
            "task_run_name": task_run_name(name, self._defaults, lambda value: isinstance(value, PrefectFuture | State)),
            "description": parallel_run_config.description,
            "retry_condition_fn": _is_worth_a_retry,
            **caching,
            **task_options,
        }
        super().__init__(
            fn=_function(prepare, self._defaults),
            name=name,
            retries=parallel_run_config.run_max_try - 1,
            **options,
        )

    __call__ = explains_start_timeout(Task.__call__)  # type: ignore[arg-type]  # mypy compares overloads with a type variable
    map = refuses_shared_outputs(Task.map)

    def with_options(self, **options: Any) -> Self:
        """Return a copy of this step with other task options; ``retries=n`` means ``run_max_try = n + 1``."""
        name, step = options.pop("name", None) or self.name, copy(self)
        ParallelRunStep.__init__(step, name, self.parallel_run_config, **self._defaults, **{**self._task_options, **options})
        return step

    def try_out(
        self,
        mini_batches: int | None = None,
        *,
        mini_batch: int | None = None,
        sample: bool = False,
        inputs: Any = None,
        side_inputs: Any = None,
        arguments: Any = None,
    ) -> TrialResult:
        """Run a few mini-batches in one process on this machine, and estimate what the whole input would take.

        The whole input is planned. Each mini-batch is tried once, without a cluster and without Prefect. Nothing is published:
        a temporary folder takes the place of the output. The script prints to stderr.

        Args:
            mini_batches: Number of mini-batches, from the first one on; None for 3.
            mini_batch: Try only this mini-batch; the first one is 0. It excludes mini_batches and sample.
            sample: Spread the mini-batches evenly over the input.
            inputs: Overrides the step's inputs, as do side_inputs and arguments.
            side_inputs: See inputs.
            arguments: See inputs.

        Raises:
            ValueError: The mini-batch does not exist, its number was passed with mini_batches or sample, or an argument
                contains the path of the output.
            EntryScriptError: The script cannot start, or init() raised.
            RowsDifferError: The rows of two mini-batches do not fit into one result.
        """
        from prefect_parallel_run.execution.trial import refuse_output_in, select, try_step  # noqa: PLC0415  a run needs none

        overrides = {"inputs": inputs, "side_inputs": side_inputs, "arguments": arguments}
        values = self._defaults | {key: value for key, value in overrides.items() if value is not None}
        has_output = values["output"] is not None or self.parallel_run_config.result_file_name is not None
        refuse_output_in(values["arguments"], values["output"])
        with tempfile.TemporaryDirectory(prefix="parallel_run_try_") as folder:
            run, output = (Path(folder, name) for name in ("run", "output"))
            output.mkdir()
            prepare = _Preparation(self.name, self.parallel_run_config, allow_reuse=False, functions=self._functions)
            parameters = values["inputs"], output if has_output else None, values["side_inputs"], values["arguments"]
            spec, warnings = prepare.spec(*parameters, is_here=True)
            return try_step(spec, run, partial(select, mini_batches, mini_batch, sample), warnings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, parallel_run_config={self.parallel_run_config!r})"


def _function(prepare: _Preparation, defaults: Mapping[str, Any]) -> Callable[..., ParallelRunResult]:
    """Return the function that Prefect runs; the step's own values are the defaults of its parameters.

    Defaults are parameters of the task run, like the arguments of a call, so Prefect waits for futures among them.
    """

    def parallel_run_step(inputs: Any, output: Any, side_inputs: Any, arguments: Any) -> ParallelRunResult:
        with flush_when_detached():
            return _run(prepare.name, prepared_run() or prepare(inputs, output, side_inputs, arguments, find_existing=False))

    parameters = [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults[key], annotation=Any)
        for key in ("inputs", "output", "side_inputs", "arguments")
    ]
    signature = inspect.Signature(parameters, return_annotation=ParallelRunResult)
    parallel_run_step.__signature__ = signature  # type: ignore[attr-defined]  # functions accept attributes
    parallel_run_step.__doc__ = prepare.config.description
    return parallel_run_step


@dataclass(frozen=True, slots=True)
class _Preparation:
    """Resolves the parameters of a call; Prefect needs them for the cache key, before the step runs."""

    name: str
    config: ParallelRunConfig
    allow_reuse: bool
    functions: StepFunctions | None

    def __call__(self, inputs: Any, output: Any, side_inputs: Any, arguments: Any, *, find_existing: bool = True) -> Prepared:
        """Return the resolved parameters; with *find_existing*, also the existing runs if there can be any."""
        logger = get_run_logger()
        target = _target(self.config, logger)
        spec, warnings = self.spec(inputs, output, side_inputs, arguments, is_here=isinstance(target, LocalTarget))
        for warning in warnings:
            logger.warning("%s", warning, extra={"action": "azure"})
        check_cancelled = Cancellation().raise_if_cancelled
        existing_runs = find_existing_runs(spec, check_cancelled) if find_existing and has_existing_runs(spec) else None
        return Prepared(spec=spec, target=target, existing_runs=existing_runs)

    def spec(
        self, inputs: Any, output: Any, side_inputs: Any, arguments: Any, *, is_here: bool
    ) -> tuple[StepSpec, Sequence[str]]:
        """Return the specification, and the settings of Azure ML that are ignored; *is_here*: nodes are on this machine."""
        values = inputs if isinstance(inputs, list | tuple) else [inputs]
        datasets = normalize_inputs([from_result(value) for value in values])
        may_reuse = self.allow_reuse and not reuse_disabled() and not any(dataset.reads_once for dataset in datasets)
        folder = resolve_output(output, required=self.config.result_file_name is not None)
        sides = resolve_side_inputs(side_inputs, [str(dataset.name) for dataset in datasets])
        script_arguments, context = check_arguments(arguments), copy_context()
        config, differences = apply_azure_settings(resolve_environment_variables(self.config), script_arguments)
        spec = StepSpec(
            name=self.name,
            config=config,
            datasets=datasets,
            output=folder,
            parameters=ScriptParameters(fill_placeholders(script_arguments, folder, datasets, sides), sides),
            hooks=None if self.functions is None else hook_names(self.functions),
            reuse=Reuse(may_reuse, _cache_seconds()),
            resolve=lambda text: context.run(resolve_reference, text),  # planning has a thread, without Prefect's context
            interpreter=interpreter_for(config, is_here=is_here),
            home=Path(get_current_settings().home),
        )
        return spec, differences


def _cache_seconds() -> float | None:
    """Return for how long an earlier result may be reused, s; None for no limit."""
    task = TaskRunContext.get()
    expiration = task.task.cache_expiration if task is not None else None
    return expiration.total_seconds() if expiration is not None else None


def _run(name: str, prepared: Prepared) -> ParallelRunResult:
    logger, recorder = get_run_logger(), _RunRecorder()
    emit = emit_to([recorder, *listeners_of(name, logger, in_prefect=True)])
    try:
        callbacks = Callbacks(reduce=_reduction_task(name), emit=emit, check_cancelled=Cancellation().raise_if_cancelled)
        result = run_step(prepared.spec, prepared.target, callbacks, _pop_resume_request() or prepared.existing_runs)
        emit(StepReturned(result))
    except BaseException as error:
        emit(StepRaised(error))
        raise
    finally:
        if recorder.run is not None:
            _emit_report(f"{prepared.spec.location_of(recorder.run)}/{recorder.run.report.name}", emit)
        emit(StepEnded())
    _pop_resume_request()  # finished: drop the resume entry
    return result


def _emit_report(report: str, emit: Emit) -> None:
    """Emit the location of the report, a path or URL, if it exists."""
    try:
        exists = size_of(report) is not None
    except ParallelRunError as error:  # an unreachable store must not hide how the step ended
        emit(Warned(str(error)))
    else:
        if exists:
            emit(ReportWritten(report))


_started: dict[UUID, RunDirectory] = {}  # by task run: a retry in this process resumes without listing the inputs again


def _pop_resume_request() -> ResumeRequest | None:
    """Remove and return the request to resume the run of an earlier attempt of this task run; None for the first attempt."""
    task = TaskRunContext.get()
    directory = _started.pop(task.task_run.id, None) if task is not None else None
    return None if directory is None else ResumeRequest(directory=directory, same_task_run=True)


def _check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is invalid, as far as this can be checked before the step runs."""
    compute_target = config.compute_target
    if isinstance(compute_target, str) and (compute_target == LOCAL or "{{" in compute_target):
        return
    target = parse_target(compute_target) if isinstance(compute_target, str) else compute_target
    if target.cluster_class is not None:
        load_class(target.cluster_class)


def _target(config: ParallelRunConfig, logger: Logger) -> Target:
    """Return the compute target; ``local`` inside a Dask cluster means that cluster."""
    if config.compute_target == LOCAL:
        flow_run = FlowRunContext.get()
        enclosing = enclosing_target(flow_run.task_runner if flow_run is not None else None)
        if enclosing is not None:
            enclosing.secede()
            logger.info("using the enclosing Dask cluster at %s", enclosing.address, extra={"action": "surrounded"})
            return enclosing
    return resolve_target(resolve_compute_target(config.compute_target))


def _reduction_task(name: str) -> Callable[[Reduction], dict[str, Any]]:
    """Return the final reduction as a Prefect task of its own, named after the step's task run."""
    task_run = TaskRunContext.get()
    step_name = task_run.task_run.name if task_run is not None else name

    def reduce_as_task(reduction: Reduction) -> dict[str, Any]:
        task = Task(
            fn=lambda: reduce(reduction),
            name="reduce",
            task_run_name=lambda: f"{step_name} reduce",
            description="Checks the failure limits and publishes the output.",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        return task()

    return reduce_as_task


def _is_worth_a_retry(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """True for failures of the infrastructure: a retry opens a new cluster and resumes from the ledger.

    A retry does not help against exceeded limits, a wrong configuration or a script that cannot start.
    """
    return isinstance(state.data, ComputeTargetError | OSError | asyncio.TimeoutError)


class _RunRecorder:
    """A listener that remembers the run directory of this task run, so that a retry can resume it."""

    run: RunDirectory | None = None

    def handle(self, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            self.run = event.directory
            if (task := TaskRunContext.get()) is not None:
                _started[task.task_run.id] = event.directory
