"""``resume``: resumes a run from its ledger, without Prefect."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit
from prefect_parallel_run.cli._run_argument import add_run_command, open_run
from prefect_parallel_run.cli._terminal import terminal_view

_OVERRIDES: dict[str, Callable[[str], Any]] = {
    "error_threshold": int,
    "allowed_failed_count": int,
    "allowed_failed_percent": float,
    "run_max_try": int,
    "run_invocation_timeout": float,
    "init_timeout": float,
    "retry_delay_seconds": float,
    "compute_target": str,
    "node_count": int,
    "node_start_timeout": float,
    "min_nodes": int,
    "process_count_per_node": int,
    "process_memory_limit": str,
}


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Resume a run from its ledger; completed mini-batches do not run again."
    command = add_run_command(commands, "resume", _resume, help_text)
    for name, kind in _OVERRIDES.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=f"override {name}")
    retry_failed = "give failed mini-batches, and items isolated as failing, a new set of attempts"
    command.add_argument("--retry-failed", action="store_true", help=retry_failed)
    isolate = "find the failing items of failed mini-batches, and keep the rows of the others"
    command.add_argument("--isolate-failed-items", action="store_const", const=True, help=isolate)
    accept_changes = "keep completed mini-batches, and plan again where inputs, script or arguments have changed"
    command.add_argument("--accept-changes", action="store_true", help=accept_changes)


def _resume(args: argparse.Namespace) -> int:
    from prefect_parallel_run.compute.resolve import target_of
    from prefect_parallel_run.execution.resume import spec_of
    from prefect_parallel_run.execution.runner import Callbacks, run_step
    from prefect_parallel_run.monitoring.listeners import listeners_of
    from prefect_parallel_run.output.reduction import reduce
    from prefect_parallel_run.runs.events import emit_to
    from prefect_parallel_run.runs.resolve import ResumeRequest

    directory = open_run(args.run_directory)
    args.run_path = args.run_directory
    overrides = {name: value for name in (*_OVERRIDES, "isolate_failed_items") if (value := getattr(args, name)) is not None}
    spec = spec_of(directory, overrides)
    request = ResumeRequest(
        directory=directory, accept_changes=args.accept_changes, retry_failed=args.retry_failed, given=frozenset(overrides)
    )
    with terminal_view(args, spec.name) as view:
        logger = _logger(spec.config.logging_level)
        view.doing("checking the run, opening the cluster")
        target = target_of(_resolve_target(spec.config.compute_target))
        callbacks = Callbacks(reduce=reduce, emit=emit_to(listeners_of(spec.name, logger, in_prefect=False)))
        result = run_step(spec, target, callbacks, request)
    emit(result.model_dump_json(indent=2) if args.json else str(result))
    return Exit.SUCCESS


def _logger(level: str) -> logging.Logger:
    """Return the run's logger, which writes to the current sys.stderr: above the status line, if there is one."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("prefect_parallel_run")
    logger.setLevel(level)
    return logger


def _resolve_target(target: Any) -> Any:
    """Return a run's compute target with its references resolved; imports Prefect only if there can be any."""
    if target == "local":
        return target
    from prefect_parallel_run.task.block_references import resolve_compute_target

    return resolve_compute_target(target)
