"""What a step is asked to do, with everything resolved: the values that a run works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefect_parallel_run.config import ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.policy.limits import FailureLimits
from prefect_parallel_run.run_directory import FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """What a step is asked to do, with everything resolved."""

    name: str
    config: ParallelRunConfig
    datasets: list[Dataset]
    output: Path | None
    side_inputs: Mapping[str, str]  #: path by name
    arguments: tuple[str, ...]
    allow_reuse: bool
    interpreter: str | None  #: that runs the script; None: the Dask worker's own
    home: Path  #: keeps this machine's key, and the run directories of steps without output
    key: bytes = field(repr=False)

    @property
    def runs(self) -> Path:
        """Return the folder that holds the step's run directories."""
        return (self.output or self.home / "parallel_run") / FOLDER

    @property
    def target(self) -> Path | None:
        """Return the result file."""
        name = self.config.result_file_name
        return self.output / name if self.output is not None and name is not None else None


def failure_limits(config: ParallelRunConfig) -> FailureLimits:
    """Return what *config* forgives; its -1, 100 and None all mean: everything."""
    return FailureLimits(
        error_threshold=None if config.error_threshold == -1 else config.error_threshold,
        allowed_failed_count=None if config.allowed_failed_count == -1 else config.allowed_failed_count,
        allowed_failed_percent=None if config.allowed_failed_percent == 100 else config.allowed_failed_percent,
    )
