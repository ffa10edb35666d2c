"""``run``: a step as a Prefect flow run, from a configuration file and options."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import command as command_line
from prefect_parallel_run.cli._output import emit, say, suggest
from prefect_parallel_run.cli._run_argument import add_json
from prefect_parallel_run.cli._terminal import driven
from prefect_parallel_run.cli.step_options import StepOptions, add_step_options, read_step_options
from prefect_parallel_run.errors import ParallelRunError

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig

_SERVER_PATIENCE = "120"  #: s for Prefect's embedded server to start; its own 20 are too few on a slow machine
_LISTED = 20  #: paths of an input that Prefect's page of the flow run shows


def add_to(commands: Any) -> None:
    """Add the command."""
    words = "Run a step as a Prefect flow run, with a progress bar where stderr is a terminal."
    command = commands.add_parser("run", help=words, description=words, usage=_USAGE)
    command.add_argument("config", metavar="CONFIG", help="YAML file with a ParallelRunConfig")
    add_step_options(command)
    command.add_argument("--no-reuse", action="store_true", help="run again even if the same has run before")
    add_json(command)
    command.set_defaults(do=_run)


_USAGE = "prefect-parallel-run run CONFIG --input PATH … --output PATH [options] [-- arguments of the script]"


def _run(given: argparse.Namespace) -> int:
    options = read_step_options(given, is_to_run=True)
    check_target(options.config)
    check_inputs(options)
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", _SERVER_PATIENCE)
    with driven(given, options.name) as view:
        view.doing("starting Prefect")
        warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # we raise PrefectHomeError
        from prefect_parallel_run.cli.step_flow import run_in_flow  # noqa: PLC0415  the same
        from prefect_parallel_run.step import ParallelRunStep  # noqa: PLC0415  seconds of import; its log goes above the line

        _shorten_tracebacks()
        step = ParallelRunStep(
            options.name,
            options.config,
            inputs=options.inputs,
            output=options.output,
            side_inputs=dict(options.side_inputs) or None,
            arguments=options.arguments,
            allow_reuse=options.allow_reuse,
        )
        result = run_in_flow(step, given.config, _shown_paths(options), options.output)
    emit(result.model_dump_json(indent=2) if given.json else str(result))
    if result.items_failed and not given.json:
        say("some items failed, as the limits allow:")
        suggest((command_line("failed", result.run_directory), "by cause"))
    return Exit.WELL


def check_inputs(options: StepOptions) -> None:
    """Raise InputError for an input that is not there, before anything is started for it."""
    for dataset in options.inputs:
        for _ in dataset.listing():
            break


def check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is only a name, as a cluster has in Azure."""
    from prefect_parallel_run.config.model import LOCAL  # noqa: PLC0415  pydantic, which --help does not need
    from prefect_parallel_run.config.validation import names_a_cluster  # noqa: PLC0415  the same

    target = config.compute_target
    if isinstance(target, str) and target != LOCAL and not names_a_cluster(target):
        words = "--set compute_target=local for this machine, --set compute_target=tls://host:8786 for a cluster"
        raise ValueError(f"compute_target is {target!r}, which names no cluster here; pass {words}")


def _shown_paths(options: StepOptions) -> list[str]:
    paths = [path for dataset in options.inputs for path in dataset.paths]
    more = [f"… and {len(paths) - _LISTED} more"] if len(paths) > _LISTED else []
    return [path.encode("utf-8", "backslashreplace").decode() for path in paths[:_LISTED]] + more


def _shorten_tracebacks() -> None:
    """Leave out, on this console alone, tracebacks of errors that say all there is to say in their own words."""
    for handler in {*logging.getLogger("prefect").handlers, *logging.getLogger().handlers}:
        if getattr(handler, "stream", None) is sys.stderr:
            handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Take our own errors' traceback away; handlers of Prefect's API have had the record before the console's."""
    if record.exc_info and isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], ParallelRunError):
        record.exc_info = record.exc_text = None
    return True
