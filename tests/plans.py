"""Writes the plan of datasets in one call."""

from collections.abc import Sequence
from pathlib import Path

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.planning.plan import PlanSummary
from prefect_parallel_run.planning.planner import Planning, PlanWriter


def write_plan(
    datasets: Sequence[Dataset],
    mini_batch_size: int,
    path: Path,
    partition_keys: Sequence[str] | None = None,
    store: Path | None = None,
    check_cancelled: CheckCancelled = never_cancelled,
) -> PlanSummary:
    """Write the plan of *datasets* to *path*; see Planning for the arguments. *store* is the plan's folder by default."""
    return Planning(datasets, mini_batch_size, partition_keys, store or path.parent).write(PlanWriter(path), check_cancelled)
