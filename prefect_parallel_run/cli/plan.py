"""``plan``: prints the plan that a run would have, or the plan of an existing run, without running anything."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._exit_codes import Exit
from prefect_parallel_run.cli._output import emit, emit_json
from prefect_parallel_run.cli._run_argument import add_json, open_run
from prefect_parallel_run.cli.step_options import add_step_options, read_step_options

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.monitoring.plan_summary import PlanFigures

_USAGE = """\
prefect-parallel-run plan CONFIG --input PATH … [options as of run] [-- arguments of the script]
       prefect-parallel-run plan RUN_DIR"""


def add_to(commands: Any) -> None:
    """Add the command."""
    help_text = "Print what a run would do: mini-batches, their sizes, the first and last one, processes, limits. Runs nothing."
    command = commands.add_parser("plan", help=help_text, description=help_text, usage=_USAGE)
    command.add_argument("config", metavar="CONFIG|RUN_DIR", help="YAML file with a ParallelRunConfig; or an existing run")
    add_step_options(command)
    add_json(command)
    command.set_defaults(handler=_plan)


def _plan(args: argparse.Namespace) -> int:
    from prefect_parallel_run.child.storage import is_remote
    from prefect_parallel_run.monitoring.plan_summary import as_plain, plan_lines

    is_run = is_remote(args.config) or Path(args.config).is_dir()
    figures, config, name = _read_plan(args) if is_run else _make_plan(args)
    if args.json:
        emit_json({"name": name, **as_plain(figures, config, _slots(config))})
    else:
        emit("\n".join([f"{name}:", *plan_lines(figures, config, _slots(config))]))
    return Exit.SUCCESS


def _slots(config: ParallelRunConfig) -> int | None:
    """Return the processes per node; None if only the nodes can determine it."""
    if config.process_count_per_node is not None or config.compute_target != "local":
        return config.process_count_per_node
    from prefect_parallel_run.node.gpus import local_slots

    return local_slots(config.node_count)


def _make_plan(args: argparse.Namespace) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Plan into a temporary folder."""
    from prefect_parallel_run._threads import Background
    from prefect_parallel_run.monitoring.plan_summary import summarize_plan
    from prefect_parallel_run.planning.inputs import fill_placeholders
    from prefect_parallel_run.planning.plan import Plan
    from prefect_parallel_run.planning.planner import Planning, PlanWriter

    options = read_step_options(args, for_run=False)
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


def _read_plan(args: argparse.Namespace) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Read the plan of an existing run, which may still be growing."""
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.monitoring.plan_summary import summarize_plan
    from prefect_parallel_run.planning.plan import Plan, planned_mini_batches
    from prefect_parallel_run.runs.executions import config_of

    if args.input or args.input_list or args.set:
        raise ValueError(
            f"{args.config} is a run directory: its inputs and settings are fixed; pass a CONFIG to plan with others"
        )
    directory = open_run(args.config, metadata_only=True, verify_plan=True)
    config = ParallelRunConfig.model_construct(**config_of(directory))  # not validated: the script may have been deleted
    notes = Plan.open(directory.plan).summary.notes if directory.plan.exists() else ()
    return summarize_plan(planned_mini_batches(directory.plan, directory.spool), notes), config, directory.run_id
