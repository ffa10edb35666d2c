"""``plan``: prints the plan that a run would have, or the plan of an existing run, without running anything."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from prefect_parallel_run._threads import Background
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_command import open_run
from prefect_parallel_run.cli.step_options import StepCommand, read_step_options
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.monitoring.plan_summary import PlanFigures, as_plain, plan_lines, summarize_plan
from prefect_parallel_run.node.gpus import local_slots
from prefect_parallel_run.planning.inputs import fill_placeholders
from prefect_parallel_run.planning.plan import Plan, planned_mini_batches
from prefect_parallel_run.planning.planner import Planning, PlanWriter
from prefect_parallel_run.runs.executions import config_of


@click.command(cls=StepCommand)
@click.argument("config", metavar="CONFIG|RUN_DIR")
def plan(*, as_json: bool, **values: Any) -> None:
    """Print what a run would do: mini-batches, their sizes, the first and last one, processes, limits. Runs nothing.

    Takes a configuration file and the options of run, or an existing run and no options.
    """
    is_run = is_remote(values["config"]) or Path(values["config"]).is_dir()
    figures, config, name = _read_plan(values) if is_run else _make_plan(values)
    if as_json:
        emit_json({"name": name, **as_plain(figures, config, _slots(config))})
    else:
        emit("\n".join([f"{name}:", *plan_lines(figures, config, _slots(config))]))


def _slots(config: ParallelRunConfig) -> int | None:
    """Return the processes per node; None if only the nodes can determine it."""
    if config.process_count_per_node is not None or config.compute_target != "local":
        return config.process_count_per_node
    return local_slots(config.node_count)


def _make_plan(values: Mapping[str, Any]) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Plan into a temporary folder."""
    options = read_step_options(values, for_run=False)
    fill_placeholders(options.arguments, options.output, options.inputs, options.side_inputs)
    size = options.config.mini_batch_size_for(options.inputs[0].kind)
    with tempfile.TemporaryDirectory(prefix="parallel_run_plan_") as folder:
        path = Path(folder, "plan.parquet")
        planning = Planning(options.inputs, size, options.config.partition_keys, Path(folder, "partitions"))
        Background("planning", lambda check_cancelled: planning.write(PlanWriter(path), check_cancelled)).wait()
        partitions, placeholder = f"{folder}/partitions/", "(to be partitioned)/"  # a run would write partitioned tables here
        plan = Plan.open(path)
        planned = (batch._replace(work=batch.work.replace(partitions, placeholder)) for batch in plan.mini_batches())
        return summarize_plan(planned, plan.summary.notes), options.config, options.name


def _read_plan(values: Mapping[str, Any]) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Read the plan of an existing run, which may still be growing."""
    if values["input"] or values["input_list"] or values["set"]:
        raise ValueError(
            f"{values['config']} is a run directory: its inputs and settings are fixed; pass a CONFIG to plan with others"
        )
    directory = open_run(values["config"], metadata_only=True, verify_plan=True)
    config = ParallelRunConfig.model_construct(**config_of(directory))  # not validated: the script may have been deleted
    notes = Plan.open(directory.plan).summary.notes if directory.plan.exists() else ()
    return summarize_plan(planned_mini_batches(directory.plan, directory.spool), notes), config, directory.run_id
