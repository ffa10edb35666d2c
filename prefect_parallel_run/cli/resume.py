"""``resume``: resumes a run from its ledger, without Prefect."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Any

import click

from prefect_parallel_run.cli._command import emit
from prefect_parallel_run.cli._run_command import RunCommand, config_option, open_run, resolve_uri, terminal_view
from prefect_parallel_run.compute.resolve import resolve_target
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.execution.runner import Callbacks, run_step
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.output.reduction import reduce
from prefect_parallel_run.runs.events import emit_to
from prefect_parallel_run.runs.resolve import ResumeRequest
from prefect_parallel_run.runs.spec import spec_of

_OVERRIDES = (  #: fields of the configuration that do not affect the result
    "error_threshold",
    "allowed_failed_count",
    "allowed_failed_percent",
    "run_max_try",
    "run_invocation_timeout",
    "init_timeout",
    "retry_delay_seconds",
    "retry_backoff_factor",
    "retry_jitter_factor",
    "mini_batches_per_minute",
    "compute_target",
    "node_count",
    "node_start_timeout",
    "min_nodes",
    "process_count_per_node",
    "threads_per_process",
    "process_memory_limit",
)
_RETRY_FAILED = "Give failed mini-batches a new set of attempts, and run isolated failing items once more."
_ISOLATE = "Find the failing items of failed mini-batches, and keep the rows of the others."
_ACCEPT_CHANGES = "Resume although inputs, script or arguments changed: plan the inputs again, keep completed mini-batches."


@click.command(cls=RunCommand, params=[config_option(name) for name in _OVERRIDES])
@click.option("--retry-failed", is_flag=True, help=_RETRY_FAILED)
@click.option("--isolate-failed-items", is_flag=True, help=_ISOLATE)
@click.option("--accept-changes", is_flag=True, help=_ACCEPT_CHANGES)
def resume(
    run_directory: str, retry_failed: bool, isolate_failed_items: bool, accept_changes: bool, as_json: bool, **fields: Any
) -> None:
    """Resume a run from its ledger; completed mini-batches do not run again. Options override its configuration."""
    directory = open_run(run_directory)
    overrides = {name: value for name, value in fields.items() if value is not None}
    if isolate_failed_items:
        overrides["isolate_failed_items"] = True
    spec = replace(spec_of(directory, overrides), resolve=resolve_uri)
    if accept_changes:
        spec = replace(spec, hooks=None)  # recorded for a script that may have changed
    request = ResumeRequest(
        directory=directory, accept_changes=accept_changes, retry_failed=retry_failed, given=frozenset(overrides)
    )
    with terminal_view(spec.name, as_json=as_json, run_directory=run_directory) as view:
        logger = _logger(spec.config.logging_level)
        view.doing("checking the run, opening the cluster")
        target = resolve_target(_resolve_target(spec.config.compute_target))
        callbacks = Callbacks(reduce=reduce, emit=emit_to(listeners_of(spec.name, logger, in_prefect=False)))
        result = run_step(spec, target, callbacks, request)
    emit(result.model_dump_json(indent=2) if as_json else str(result))


def _logger(level: str) -> logging.Logger:
    """Return the run's logger, which writes to the current sys.stderr: above the status line, if there is one."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("prefect_parallel_run")
    logger.setLevel(level)
    return logger


def _resolve_target(target: Any) -> Any:
    """Return a run's compute target with its references resolved."""
    if target == LOCAL:
        return target
    from prefect_parallel_run.compute.blocks import resolve_compute_target  # noqa: PLC0415  Prefect takes seconds, and few targets need it

    return resolve_compute_target(target)
