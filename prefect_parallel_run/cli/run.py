"""``run``: runs a step as a Prefect flow run, from a configuration file and options."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import command as command_line
from prefect_parallel_run.cli._output import emit, notify, suggest
from prefect_parallel_run.cli._run_argument import add_json
from prefect_parallel_run.cli._terminal import terminal_view
from prefect_parallel_run.cli.step_options import StepOptions, add_step_options, read_step_options
from prefect_parallel_run.errors import ParallelRunError

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig

_SERVER_PATIENCE = "120"  #: s for Prefect's embedded server to start; its default of 20 is too short on a slow machine
_MAX_LISTED_PATHS = 20  #: input paths shown on Prefect's page of the flow run


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Run a step as a Prefect flow run, with a progress bar where stderr is a terminal."
    command = commands.add_parser("run", help=help_text, description=help_text, usage=_USAGE)
    command.add_argument("config", metavar="CONFIG", help="YAML file with a ParallelRunConfig")
    add_step_options(command)
    command.add_argument("--no-reuse", action="store_true", help="run again even if an identical run exists")
    add_json(command)
    command.set_defaults(handler=_run)


_USAGE = "prefect-parallel-run run CONFIG --input PATH … --output PATH [options] [-- arguments of the script]"


def _run(args: argparse.Namespace) -> int:
    options = read_step_options(args, for_run=True)
    check_target(options.config)
    check_inputs(options)
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", _SERVER_PATIENCE)
    with terminal_view(args, options.name) as view:
        view.doing("starting Prefect")
        warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # PrefectHomeError follows
        from prefect_parallel_run.cli.step_flow import run_in_flow
        from prefect_parallel_run.step import ParallelRunStep

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
        result = run_in_flow(step, args.config, _preview_paths(options), options.output)
    emit(result.model_dump_json(indent=2) if args.json else str(result))
    if result.items_failed and not args.json:
        notify("some items failed, within the limits:")
        suggest((command_line("failed", result.run_directory), "list failures by cause"))
    return Exit.SUCCESS


def check_inputs(options: StepOptions) -> None:
    """Raise InputError for an input that does not exist, before anything is started."""
    for dataset in options.inputs:
        for _ in dataset.listing():
            break


def check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is only a name, such as that of an Azure cluster."""
    from prefect_parallel_run.config.model import LOCAL
    from prefect_parallel_run.config.validation import names_a_cluster

    target = config.compute_target
    if isinstance(target, str) and target != LOCAL and not names_a_cluster(target):
        alternatives = "--set compute_target=local for this machine, or --set compute_target=tls://host:8786 for a Dask cluster"
        raise ValueError(f"compute_target: {target!r} is not the name of a cluster here; pass {alternatives}")


def _preview_paths(options: StepOptions) -> list[str]:
    paths = [path for dataset in options.inputs for path in dataset.paths]
    more = [f"… and {len(paths) - _MAX_LISTED_PATHS} more"] if len(paths) > _MAX_LISTED_PATHS else []
    return [path.encode("utf-8", "backslashreplace").decode() for path in paths[:_MAX_LISTED_PATHS]] + more


def _shorten_tracebacks() -> None:
    """Hide, on this console only, the tracebacks of errors whose message is complete."""
    for handler in {*logging.getLogger("prefect").handlers, *logging.getLogger().handlers}:
        if getattr(handler, "stream", None) is sys.stderr:
            handler.addFilter(_remove_traceback)


def _remove_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback of this package's errors; Prefect's API handlers have already received the record."""
    if record.exc_info and isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], ParallelRunError):
        record.exc_info = record.exc_text = None
    return True
