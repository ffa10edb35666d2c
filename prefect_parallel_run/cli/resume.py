"""``resume``: go on with a run from its ledger, without Prefect."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit
from prefect_parallel_run.cli._run_argument import add_run_command, open_run
from prefect_parallel_run.cli._terminal import driven

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
    words = "Go on with a run from its ledger; what is finished is not run again."
    command = add_run_command(commands, "resume", _resume, words)
    for name, kind in _OVERRIDES.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"other than the run's {name}")
    words = "give failed mini-batches, and items that were found guilty, a fresh set of tries"
    command.add_argument("--retry-failed", action="store_true", help=words)
    words = "find the guilty items of mini-batches that fail, or have failed, and keep the rows of the others"
    command.add_argument("--isolate-failed-items", action="store_const", const=True, help=words)
    words = "plan anew where inputs, script or arguments have changed, and keep what is finished"
    command.add_argument("--accept-changes", action="store_true", help=words)


def _resume(given: argparse.Namespace) -> int:
    from prefect_parallel_run.compute.resolve import target_of  # noqa: PLC0415  seconds of import that --help does not need
    from prefect_parallel_run.execution.resume import spec_of  # noqa: PLC0415  the same
    from prefect_parallel_run.execution.runner import run_step  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.terminal import with_view  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.watch import LogWatch  # noqa: PLC0415  the same
    from prefect_parallel_run.output.reduction import reduce  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.resolve import ResumeRequest  # noqa: PLC0415  the same

    directory = open_run(given.run_directory)
    given.place = given.run_directory
    overrides = {name: value for name in (*_OVERRIDES, "isolate_failed_items") if (value := getattr(given, name)) is not None}
    spec = spec_of(directory, overrides)
    resumption = ResumeRequest(
        directory=directory, accept_changes=given.accept_changes, retry_failed=given.retry_failed, given=frozenset(overrides)
    )
    with driven(given, spec.name) as view:
        logger = _logger(spec.config.logging_level)
        view.doing("looking at the run, opening the cluster")
        target = target_of(_resolved(spec.config.compute_target))
        watch = with_view(LogWatch(spec.name, logger))
        result = run_step(spec, target, watch, lambda: None, reduce, resumption)
    emit(result.model_dump_json(indent=2) if given.json else str(result))
    return Exit.WELL


def _logger(level: str) -> logging.Logger:
    """Return the logger of the run, which writes to stderr; to that of now, above a status line."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("prefect_parallel_run")
    logger.setLevel(level)
    return logger


def _resolved(given: Any) -> Any:
    """Return a run's compute target with what it refers to; only then is Prefect asked."""
    if given == "local":
        return given
    from prefect_parallel_run.task.block_references import resolved_target  # noqa: PLC0415  seconds of import that "local" does not need

    return resolved_target(given)
