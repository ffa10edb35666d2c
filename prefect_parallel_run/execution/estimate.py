"""Estimates from a few mini-batches what the whole input would take, and what may go wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf
from statistics import median
from typing import Any

from prefect_parallel_run._units import count, format_seconds, format_size
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.planning.plan import PlanSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFigures:
    """Measurements of a trial, and an estimate for the whole input, which is None if no mini-batch succeeded."""

    mini_batches: int  #: in the whole input
    items: int  #: in the whole input
    processes: int  #: processes of a run
    start_seconds: float  #: import of the script and init(), in each process
    memory: int  #: peak of the process, bytes; 0 if it is unknown, because the process died in each mini-batch
    seconds_per_item: tuple[float, float, float] | None = None  #: lowest, median and highest of the mini-batches
    process_hours: float | None = None  #: estimate: of all processes together
    wall_seconds: float | None = None  #: estimate: until the last process ends


def estimate(
    plan: PlanSummary, succeeded: Sequence[Receipt], start_seconds: float, memory: int, config: ParallelRunConfig, slots: int
) -> TrialFigures:
    """Return the figures of a trial of a step with *slots* processes per node; its mini-batches count as equally large."""
    processes = max(1, min(slots * config.node_count, plan.mini_batches))
    times: dict[str, Any] = {}
    if rates := [receipt.seconds / receipt.items for receipt in succeeded]:
        seconds = median(rates) * plan.items
        paced = plan.mini_batches / (config.mini_batches_per_minute or inf) * 60
        times = {
            "seconds_per_item": (min(rates), median(rates), max(rates)),
            "process_hours": (start_seconds * processes + seconds) / 3600,
            "wall_seconds": start_seconds + max(ceil(plan.mini_batches / processes) * seconds / plan.mini_batches, paced),
        }
    return TrialFigures(
        mini_batches=plan.mini_batches,
        items=plan.items,
        processes=processes,
        start_seconds=start_seconds,
        memory=memory,
        **times,
    )


def trial_warnings(
    figures: TrialFigures, succeeded: Sequence[Receipt], config: ParallelRunConfig, machine_memory: int | None
) -> Iterator[str]:
    """Yield what may make a run fail; *machine_memory* is None if the processes of a run are on other machines."""
    timeout, slowest = config.run_invocation_timeout, max((receipt.seconds for receipt in succeeded), default=0.0)
    if slowest > timeout / 2:
        took = f"the slowest mini-batch took {format_seconds(slowest)}, over half of run_invocation_timeout = {timeout:g} s"
        yield f"{took}; set a smaller mini_batch_size or a longer timeout"
    if machine_memory is not None and figures.memory * figures.processes > machine_memory:
        needed = f"{count(figures.processes, 'process', 'processes')} of {format_size(figures.memory)}"
        yield f"{needed} exceed this machine's memory of {format_size(machine_memory)}; set a smaller process_count_per_node"
    if missing := sum(receipt.failed for receipt in succeeded):
        counted = f"{count(missing, 'item')} without a row would count as failed (error_threshold = {config.error_threshold})"
        yield f"run() returned fewer rows than items; {counted}"
