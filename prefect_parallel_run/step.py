"""ParallelRunStep: parallel batch processing as one Prefect task."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from prefect_parallel_run.azureml.overrides import apply_azure_settings
from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.compute.cluster_class import load_class
from prefect_parallel_run.compute.enclosing import surrounding_target
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.compute.resolve import described, target_of
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.execution.runner import run_step
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.logs import Logger
from prefect_parallel_run.monitoring.telling import PrefectWatch
from prefect_parallel_run.monitoring.terminal import with_view
from prefect_parallel_run.output.reduction import Reduction, reduce
from prefect_parallel_run.planning.inputs import (
    check_arguments,
    fill_placeholders,
    from_result,
    resolve_output,
    resolve_side_inputs,
)
from prefect_parallel_run.planning.writing import normalise_inputs
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.fingerprint import machine_key
from prefect_parallel_run.runs.resolve import ResumeRequest, find_existing_runs, has_existing_runs
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, where_it_runs
from prefect_parallel_run.task.block_references import resolved_target, resolved_variables
from prefect_parallel_run.task.caching import Prepared, ReusePolicy, is_refused, taken_over
from prefect_parallel_run.task.cancellation import Cancellation, in_any_process
from prefect_parallel_run.task.result_serializer import RESULT_SERIALIZER
from prefect_parallel_run.task.task_names import task_run_name

_OWN_CACHING = {"cache_policy", "cache_key_fn", "result_storage_key"}  #: options with which a person decides what is cached
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}")


class ParallelRunStep(Task[..., ParallelRunResult]):
    """A Prefect task that runs an entry script over its inputs, mini-batch by mini-batch, on a Dask cluster.

    Called in a flow it returns a ParallelRunResult. ``.submit()``, ``.map()``, ``.with_options()`` and ``wait_for`` behave as
    for any task, and ``step(inputs=…, output=…, side_inputs=…, arguments=…)`` overrides what was given here; futures and
    results of other tasks are welcome in both places.

    Args:
        name: Of the step; letters, digits, blanks, ``_``, ``.`` and ``-``.
        parallel_run_config: How to run.
        inputs: One or more of one kind: datasets, paths, folders, globs, results of other steps.
        output: Folder for the result and the run directory; required for append_row.
        side_inputs: Mapping of name to path (or a list of named datasets) that every process can reach; not split.
        arguments: For the script, as on a command line; ``{output}``, ``{inputs.NAME}`` and ``{side_inputs.NAME}`` are
            replaced by paths.
        allow_reuse: Return the earlier result when script, arguments, inputs and configuration are the same and the
            output is still there unaltered.
        task_options: Further options of a Prefect task (tags, retry_delay_seconds, …). ``retries=n`` means
            ``run_max_try = n + 1``.

    Raises:
        ValueError: The name or the arguments are not of the form above, or the configuration asks for what this version
            cannot do.
    """

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
            raise ValueError(f"name: {name!r} is not a step's name; use letters, digits, blanks, '_', '.' and '-'")
        check_arguments(arguments)
        _check_target(parallel_run_config)
        if (retries := task_options.pop("retries", None)) is not None:
            parallel_run_config = parallel_run_config.model_copy(update={"run_max_try": retries + 1})
        self.parallel_run_config = parallel_run_config
        self._given = {
            "inputs": inputs,
            "output": output,
            "side_inputs": side_inputs,
            "arguments": arguments,
            "allow_reuse": allow_reuse,
        }
        self._task_options = task_options
        is_ours = not (_OWN_CACHING & task_options.keys())  # else the person's own policy decides, and nothing beside it
        prepare = partial(_prepare, name, parallel_run_config, allow_reuse=allow_reuse and is_ours)
        caching: dict[str, Any] = {"cache_policy": NO_CACHE}  # Prefect's own key knows nothing of the configuration
        if not is_ours:
            caching = {}
        elif allow_reuse and task_options.get("persist_result") is not False:
            caching = {"cache_policy": ReusePolicy(prepare=prepare), "result_serializer": RESULT_SERIALIZER}
        options = {
            "task_run_name": task_run_name(name, self._given, lambda value: isinstance(value, PrefectFuture | State)),
            "description": parallel_run_config.description,
            "retry_condition_fn": _is_worth_a_retry,
            **caching,
            **task_options,
        }
        super().__init__(
            fn=_function(name, parallel_run_config, self._given, prepare),
            name=name,
            retries=parallel_run_config.run_max_try - 1,
            **options,
        )

    def with_options(self, **options: Any) -> ParallelRunStep:
        """Return a step like this one with other task options; ``retries=n`` means ``run_max_try = n + 1``."""
        name = options.pop("name", None) or self.name
        return ParallelRunStep(name, self.parallel_run_config, **self._given, **{**self._task_options, **options})

    def __repr__(self) -> str:
        return f"ParallelRunStep(name={self.name!r}, parallel_run_config={self.parallel_run_config!r})"


def _function(
    name: str, config: ParallelRunConfig, given: Mapping[str, Any], prepare: Callable[..., Prepared]
) -> Callable[..., ParallelRunResult]:
    """Return the function that Prefect runs; what the step was given are the defaults of its parameters.

    As defaults they are parameters of the task run like those of a call, so Prefect waits for futures among them.
    """

    def parallel_run_step(inputs: Any, output: Any, side_inputs: Any, arguments: Any) -> ParallelRunResult:
        with in_any_process():
            return _run(name, taken_over() or prepare(inputs, output, side_inputs, arguments, looks=False))

    parameters = [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=given[key], annotation=Any)
        for key in ("inputs", "output", "side_inputs", "arguments")
    ]
    signature = inspect.Signature(parameters, return_annotation=ParallelRunResult)
    parallel_run_step.__signature__ = signature  # type: ignore[attr-defined]  # functions take attributes
    parallel_run_step.__doc__ = config.description
    return parallel_run_step


def _prepare(
    name: str,
    config: ParallelRunConfig,
    inputs: Any,
    output: Any,
    side_inputs: Any,
    arguments: Any,
    *,
    allow_reuse: bool,
    looks: bool = True,
) -> Prepared:
    """Return what is about to run; with *looks*, what there is of it already is looked for where that is worth it."""
    given = inputs if isinstance(inputs, list | tuple) else [inputs]
    datasets = normalise_inputs([from_result(value) for value in given])
    folder = resolve_output(output, required=config.result_file_name is not None)
    sides = resolve_side_inputs(side_inputs, [str(dataset.name) for dataset in datasets])
    home = Path(get_current_settings().home)
    logger = get_run_logger()
    target = _target(config, logger)
    given_arguments = check_arguments(arguments)
    config, differences = apply_azure_settings(resolved_variables(config), given_arguments)
    for words in differences:
        logger.warning("%s", words, extra={"action": "azure"})
    task = TaskRunContext.get()
    expiration = task.task.cache_expiration if task is not None else None
    spec = StepSpec(
        name=name,
        config=config,
        datasets=datasets,
        output=folder,
        side_inputs=sides,
        arguments=fill_placeholders(given_arguments, folder, datasets, sides),
        allow_reuse=allow_reuse and not is_refused(),
        reuse_for=expiration.total_seconds() if expiration is not None else None,
        **where_it_runs(config, is_here=isinstance(target, LocalTarget)),
        home=home,
        key=machine_key(home),
    )
    look = find_existing_runs(spec, Cancellation().raise_if_wanted) if looks and has_existing_runs(spec) else None
    return Prepared(spec=spec, target=target, look=look)


def _run(name: str, prepared: Prepared) -> ParallelRunResult:
    watch = _Watch(name, get_run_logger())
    try:
        result = run_step(
            prepared.spec,
            prepared.target,
            with_view(watch),
            Cancellation().raise_if_wanted,
            _as_task(name),
            _begun_by_this_task_run(),
            prepared.look,
        )
        watch.returned(result)
    except BaseException as error:
        watch.raised(error)
        raise
    finally:
        if watch.run is not None:
            watch.reported(f"{prepared.spec.place_of(watch.run)}/{watch.run.report.name}")
        watch.finish()
    _begun_by_this_task_run()  # forgotten: there is nothing to go on with
    return result


_begun: dict[UUID, RunDirectory] = {}  # by task run: a retry in this process goes on without listing the inputs again


def _begun_by_this_task_run() -> ResumeRequest | None:
    """Return the run directory that an earlier try of this very task run worked in, to go on with; None on the first."""
    task = TaskRunContext.get()
    directory = _begun.pop(task.task_run.id, None) if task is not None else None
    return None if directory is None else ResumeRequest(directory=directory, same_task_run=True)


def _check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is none, as far as can be said before the step runs."""
    given = config.compute_target
    if isinstance(given, str) and (given == LOCAL or "{{" in given):
        return
    target = described(given) if isinstance(given, str) else given
    if target.cluster_class is not None:
        load_class(target.cluster_class)


def _target(config: ParallelRunConfig, logger: Logger) -> Target:
    """Return where to run; ``local`` inside a Dask cluster is that cluster."""
    if config.compute_target == LOCAL:
        flow_run = FlowRunContext.get()
        surrounding = surrounding_target(flow_run.task_runner if flow_run is not None else None)
        if surrounding is not None:
            surrounding.secede()
            logger.info("runs on the cluster around it, %s", surrounding.address, extra={"action": "surrounded"})
            return surrounding
    return target_of(resolved_target(config.compute_target))


def _as_task(name: str) -> Callable[[Reduction], dict[str, Any]]:
    """Return the final reduction as a Prefect task of its own, named after the step's."""
    task_run = TaskRunContext.get()
    above = task_run.task_run.name if task_run is not None else name

    def reduce_as_task(reduction: Reduction) -> dict[str, Any]:
        task = Task(
            fn=lambda: reduce(reduction),
            name="reduce",
            task_run_name=lambda: f"{above} reduce",
            description="Judges the limits and writes the output.",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        return task()

    return reduce_as_task


def _is_worth_a_retry(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """True for failures of the infrastructure: a retry opens a new cluster and goes on from the ledger.

    Limits exceeded, a wrong configuration or a script that cannot start would only fail again.
    """
    return isinstance(state.data, ComputeTargetError | OSError | asyncio.TimeoutError)


class _Watch(PrefectWatch):
    """Remembers the run directory that this task run works in."""

    run: RunDirectory | None = None

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        self.run = run
        if (task := TaskRunContext.get()) is not None:
            _begun[task.task_run.id] = run
        super().began(run, tally, dashboard)
