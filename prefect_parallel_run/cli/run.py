"""``run``: runs a step as a Prefect flow run. ``plan``: prints the plan of a new or an existing run, and runs nothing."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from prefect_parallel_run._threads import Background
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._command import command as command_line
from prefect_parallel_run.cli._command import emit, emit_result, notify, suggest
from prefect_parallel_run.cli._run_command import open_run, raise_on_sigterm, resolve_uri, terminal_view
from prefect_parallel_run.cli.step_options import StepCommand, read_step_options
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.validation import names_a_cluster
from prefect_parallel_run.monitoring.plan_summary import PlanFigures, as_plain, plan_lines, summarize_plan
from prefect_parallel_run.node.cores import usable_cores
from prefect_parallel_run.node.gpus import default_slots, visible_gpus
from prefect_parallel_run.planning.inputs import fill_placeholders
from prefect_parallel_run.planning.plan import Plan, planned_mini_batches
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.executions import config_of
from prefect_parallel_run.runs.spec import planning_of, table_versions

_SERVER_PATIENCE = "120"  #: s for Prefect's temporary server to start; its default of 20 is too short on a slow machine


@click.command(cls=StepCommand)
@click.argument("config")
@click.option("--no-reuse", is_flag=True, help="Run again even if an identical run exists.")
def run(*, as_json: bool, **values: Any) -> None:
    """Run a step as a Prefect flow run, with a progress bar where stderr is a terminal.

    CONFIG is a YAML file with a ParallelRunConfig.
    """
    options = read_step_options(values, for_run=True)
    check_target(options.config)
    for dataset in options.inputs:
        next(iter(dataset.listing()), None)  # raises InputError for an input that does not exist, before anything is started
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


def check_target(config: ParallelRunConfig) -> None:
    """Raise ValueError for a compute target that is only a name, such as that of an Azure cluster."""
    target = config.compute_target
    if isinstance(target, str) and target != LOCAL and not names_a_cluster(target):
        alternatives = "--set compute_target=local for this machine, or --set compute_target=tls://host:8786 for a Dask cluster"
        raise ValueError(f"compute_target: {target!r} is not the name of a cluster here; pass {alternatives}")


@click.command(cls=StepCommand)
@click.argument("config", metavar="CONFIG|RUN_DIR")
def plan(*, as_json: bool, **values: Any) -> None:
    """Print what a run would do: mini-batches, their sizes, the first and last one, processes, limits. Runs nothing.

    Pass a configuration file and the options of the command run, or an existing run without options.
    """
    is_run = is_remote(values["config"]) or Path(values["config"]).is_dir()
    figures, config, name = _read_plan(values) if is_run else _make_plan(values)
    slots = _slots(config)
    text = "\n".join([f"{name}:", *plan_lines(figures, config, slots)])
    emit_result(text, {"name": name, **as_plain(figures, config, slots)}, as_json=as_json)


def _slots(config: ParallelRunConfig) -> int | None:
    """Return the processes per node; None if only the nodes can determine it."""
    if config.process_count_per_node is not None or config.compute_target != "local":
        return config.process_count_per_node
    return default_slots(usable_cores(config.node_count), visible_gpus(os.environ))


def _make_plan(values: Mapping[str, Any]) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Plan into a temporary folder."""
    options = read_step_options(values, for_run=False)
    fill_placeholders(options.arguments, options.output, options.inputs, options.side_inputs)
    raise_on_sigterm()  # so that the folder is deleted: it may contain rows of a database
    with tempfile.TemporaryDirectory(prefix="parallel_run_plan_") as folder:
        path = Path(folder, "plan.parquet")
        datasets = [dataset.copied_to(Path(folder, "inputs"), resolve_uri) for dataset in options.inputs]
        planning = planning_of(options.config, datasets, Path(folder, "partitions"))
        Background("planning", lambda check_cancelled: planning.write(PlanWriter(path), check_cancelled)).wait()
        partitions, placeholder = f"{folder}/partitions/", "(to be partitioned)/"  # a run would write partitioned tables here
        plan = Plan(path)
        planned = (
            batch._replace(work=batch.work.replace(partitions, placeholder).replace(f"{folder}/inputs/", "(query)/"))
            for batch in plan.mini_batches()
        )
        inputs = [dataset.model_dump() for dataset in options.inputs]
        return summarize_plan(planned, _notes(inputs, plan.summary.notes)), options.config, options.name


def _read_plan(values: Mapping[str, Any]) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Read the plan of an existing run, which may still be growing."""
    if values["input"] or values["input_list"] or values["set"]:
        raise ValueError(
            f"{values['config']} is a run directory: its inputs and settings are fixed; to plan with other ones, pass a CONFIG"
        )
    directory = open_run(values["config"], metadata_only=True, verify_plan=True)
    config = ParallelRunConfig.model_construct(**config_of(directory))  # not validated: the script may have been deleted
    notes = Plan(directory.plan).summary.notes if directory.plan.exists() else ()
    notes = _notes(directory.metadata().get("inputs", []), notes)
    return summarize_plan(planned_mini_batches(directory.plan, directory.spool), notes), config, directory.run_id


def _notes(inputs: list[dict[str, Any]], warnings: tuple[str, ...]) -> tuple[str, ...]:
    versions = (f"{name}: version {version} of the table" for name, version in table_versions(inputs).items())
    return (*versions, *warnings)
