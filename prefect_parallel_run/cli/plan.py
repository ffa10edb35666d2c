"""``plan``: what a run would do, or what a run was planned to do; nothing is done."""

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
    words = "Tell what a run would do: mini-batches, their sizes, the first and the last, processes, limits. No work is done."
    command = commands.add_parser("plan", help=words, description=words, usage=_USAGE)
    command.add_argument("config", metavar="CONFIG|RUN_DIR", help="YAML file with a ParallelRunConfig; or a run's own plan")
    add_step_options(command)
    add_json(command)
    command.set_defaults(do=_plan)


def _plan(given: argparse.Namespace) -> int:
    from prefect_parallel_run.child.storage import is_remote  # noqa: PLC0415  pandas and Arrow, which --help does not need
    from prefect_parallel_run.monitoring.plan_summary import as_plain, plan_lines  # noqa: PLC0415  the same

    is_run = is_remote(given.config) or Path(given.config).is_dir()
    figures, config, name = _of_run(given) if is_run else _of_options(given)
    if given.json:
        emit_json({"name": name, **as_plain(figures, config, _slots(config))})
    else:
        emit("\n".join([f"{name}:", *plan_lines(figures, config, _slots(config))]))
    return Exit.WELL


def _slots(config: ParallelRunConfig) -> int | None:
    """Return the processes per node; None where only the nodes know."""
    if config.process_count_per_node is not None or config.compute_target != "local":
        return config.process_count_per_node
    from prefect_parallel_run.compute.here import slots_here  # noqa: PLC0415  the same

    return slots_here(config.node_count)


def _of_options(given: argparse.Namespace) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Plan into a temporary folder, of which nothing stays."""
    from prefect_parallel_run._threads import Background  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.plan_summary import figures_of  # noqa: PLC0415  the same
    from prefect_parallel_run.planning.inputs import fill_placeholders  # noqa: PLC0415  the same
    from prefect_parallel_run.planning.plan import Plan  # noqa: PLC0415  the same
    from prefect_parallel_run.planning.writing import Planning, PlanWriter  # noqa: PLC0415  the same

    options = read_step_options(given, is_to_run=False)
    fill_placeholders(options.arguments, options.output, options.inputs, options.side_inputs)
    size = options.config.mini_batch_size_for(options.inputs[0].kind)
    with tempfile.TemporaryDirectory(prefix="parallel_run_plan_") as folder:
        path = Path(folder, "plan.parquet")
        planning = Planning(options.inputs, size, options.config.partition_keys, Path(folder, "partitions"))
        Background("planning", lambda check_cancelled: planning.write(PlanWriter(path), check_cancelled)).wait(lambda: None)
        anew, elsewhere = f"{folder}/partitions/", "(to be partitioned)/"  # where tables would be written anew
        plan = Plan.open(path)
        planned = (each._replace(work=each.work.replace(anew, elsewhere)) for each in plan.mini_batches())
        return figures_of(planned, plan.summary.notes), options.config, options.name


def _of_run(given: argparse.Namespace) -> tuple[PlanFigures, ParallelRunConfig, str]:
    """Read the plan that a run has, as far as it goes."""
    from prefect_parallel_run.config.model import ParallelRunConfig  # noqa: PLC0415  the same
    from prefect_parallel_run.monitoring.plan_summary import figures_of  # noqa: PLC0415  the same
    from prefect_parallel_run.planning.plan import Plan  # noqa: PLC0415  the same
    from prefect_parallel_run.planning.spool import planned_in  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.executions import config_of  # noqa: PLC0415  the same

    if given.input or given.input_list or given.set:
        raise ValueError(f"{given.config} is a run directory: what it was planned for cannot be changed; give a CONFIG")
    directory = open_run(given.config, to_look_at=True, reads_plan=True)
    config = ParallelRunConfig.model_construct(**config_of(directory))  # its script may be gone; only its numbers are read
    notes = Plan.open(directory.plan).summary.notes if directory.plan.exists() else ()
    return figures_of(planned_in(directory.plan, directory.spool), notes), config, directory.run_id
