"""``run``: runs a step as a Prefect flow run, from a configuration file and options."""

from __future__ import annotations

import os
import warnings
from typing import Any

import click

from prefect_parallel_run.cli._output import command as command_line
from prefect_parallel_run.cli._output import emit, notify, suggest
from prefect_parallel_run.cli._terminal import terminal_view
from prefect_parallel_run.cli.step_options import StepCommand, StepOptions, read_step_options
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.validation import names_a_cluster

_SERVER_PATIENCE = "120"  #: s for Prefect's embedded server to start; its default of 20 is too short on a slow machine


@click.command(cls=StepCommand)
@click.argument("config")
@click.option("--no-reuse", is_flag=True, help="Run again even if an identical run exists.")
def run(*, as_json: bool, **values: Any) -> None:
    """Run a step as a Prefect flow run, with a progress bar where stderr is a terminal.

    CONFIG is a YAML file with a ParallelRunConfig.
    """
    options = read_step_options(values, for_run=True)
    check_target(options.config)
    check_inputs(options)
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", _SERVER_PATIENCE)
    with terminal_view(options.name, as_json=as_json) as view:
        view.doing("starting Prefect")
        warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # PrefectHomeError follows
        from prefect_parallel_run.cli.step_flow import run_in_flow  # noqa: PLC0415  Prefect takes seconds, in view of the user

        result = run_in_flow(options, values["config"])
    emit(result.model_dump_json(indent=2) if as_json else str(result))
    if result.items_failed and not as_json:
        notify("some items failed, within the limits:")
        suggest((command_line("failed", result.run_directory), "list failures by cause"))


def check_inputs(options: StepOptions) -> None:
    """Raise InputError for an input that does not exist, before anything is started."""
    for dataset in options.inputs:
        for _ in dataset.listing():
            break


def check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is only a name, such as that of an Azure cluster."""
    target = config.compute_target
    if isinstance(target, str) and target != LOCAL and not names_a_cluster(target):
        alternatives = "--set compute_target=local for this machine, or --set compute_target=tls://host:8786 for a Dask cluster"
        raise ValueError(f"compute_target: {target!r} is not the name of a cluster here; pass {alternatives}")
