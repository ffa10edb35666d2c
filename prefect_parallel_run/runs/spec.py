"""What a step is asked to do, with everything resolved: the values that a run works with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.environments import EnvironmentPlan, environment_plan, interpreter_of
from prefect_parallel_run.planning.writing import Planning
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, workplace


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """What a step is asked to do, with everything resolved."""

    name: str
    config: ParallelRunConfig
    datasets: list[Dataset]
    output: str | None  #: absolute path of a folder, or a URL
    side_inputs: Mapping[str, str]  #: path by name
    arguments: tuple[str, ...]
    allow_reuse: bool
    reuse_for: float | None = None  #: s after its end in which a run may be reused; None: for ever
    interpreter: str | None  #: that runs the script, or its virtual environment; None: the Dask worker's own
    environment: EnvironmentPlan | None  #: built on the nodes, instead
    home: Path  #: keeps this machine's key, and the run directories of steps without output
    key: bytes = field(repr=False)

    @property
    def name_in_paths(self) -> str:
        """Return the name as run directories begin with it."""
        return self.name.replace(" ", "_")

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Return what the datasets are, as plain values."""
        return [{"kind": dataset.kind, **dataset.model_dump(mode="json")} for dataset in self.datasets]

    @property
    def planning(self) -> Planning:
        """Return how the datasets are cut."""
        size = self.config.mini_batch_size_for(self.datasets[0].kind)
        return Planning(self.datasets, size, self.config.partition_keys, self.runs / "partitions")

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Return what every node must be able to see on its own disks, as users call it, and its path."""
        found = [(str(dataset.name), _literal(path).rstrip("/")) for dataset in self.datasets for path in dataset.paths]
        found += [(f"side input {name}", path) for name, path in self.side_inputs.items()]
        found += [(f"model {name}", path) for name, path in self.config.models.items()]
        if self.output is not None and self.result is None:  # the script writes there itself
            found.append(("output", self.output))
        return tuple((name, path.removeprefix("file://") or "/") for name, path in found if not is_remote(path))

    @property
    def fetches(self) -> bool:
        """True when items are objects of a store, which nodes fetch."""
        return any(dataset.kind == "file" and is_remote(dataset.paths[0]) for dataset in self.datasets)

    @property
    def runs(self) -> Path:
        """Return the folder of this machine that holds the step's run directories."""
        return workplace(self.output, self.home) / FOLDER

    @property
    def store(self) -> str | None:
        """Return the URL of the output; None for a folder of this machine."""
        return self.output if self.output is not None and is_remote(self.output) else None

    @property
    def result(self) -> str | None:
        """Return the path or URL of the result file."""
        name = self.config.result_file_name
        return f"{self.output}/{name}" if self.output is not None and name is not None else None

    @property
    def writes_output(self) -> bool:
        """True when the script writes to the output itself: there is no other result, or its arguments say where it is."""
        is_told = any(f"{self.output}/" in f"{given}/" for given in self.arguments)
        return self.output is not None and (self.result is None or is_told)

    @property
    def result_format(self) -> str | None:
        """Return how a step that reads the result has to take it: csv is what pandas reads without being told how."""
        if self.result is None:
            return None
        return "text" if self.config.append_row_csv_options else self.config.result_format

    @property
    def writes_into_inputs(self) -> bool:
        """True when what the script writes to the output may lie where inputs are listed."""
        roots = [_literal(path) for dataset in self.datasets for path in dataset.paths]
        return self.output is not None and any(f"{self.output}/".startswith(root) for root in roots)

    def target_of(self, directory: RunDirectory) -> Path | None:
        """Return the file of this machine in which the result is put together."""
        if self.result is None or self.output is None:
            return None
        return Path(self.result) if self.store is None else directory.path / str(self.config.result_file_name)

    def place_of(self, directory: RunDirectory) -> str:
        """Return the path or URL of a run directory, as users see it."""
        return str(directory.path) if self.store is None else f"{self.store}/{FOLDER}/{directory.run_id}"


def where_it_runs(config: ParallelRunConfig, *, is_here: bool) -> dict[str, Any]:
    """Return a StepSpec's ``interpreter`` and ``environment``.

    Args:
        config: Of the step.
        is_here: Nodes are processes of this machine, so that an interpreter that is missing can be told at once.

    Raises:
        EnvironmentSetupError: The interpreter, or a conda file, is not there.
    """
    given = config.environment
    if isinstance(given, Environment):
        return {"interpreter": None, "environment": environment_plan(given)}
    if given is None or is_here:
        return {"interpreter": interpreter_of(given), "environment": None}
    is_relative = not given.startswith("~")  # whose home that is, each node says
    return {"interpreter": str(Path(given).absolute()) if is_relative else given, "environment": None}


def _literal(path: str) -> str:
    """Return the folder that a path, folder, pattern or URL begins with, with a slash at its end."""
    magic = re.search(r"[*?\[]", path)
    return f"{path.rstrip('/')}/" if magic is None else path[: path.rindex("/", 0, magic.start()) + 1]


def failure_limits(config: ParallelRunConfig) -> FailureLimits:
    """Return what *config* forgives."""
    return FailureLimits.of(
        {name: getattr(config, name) for name in ("error_threshold", "allowed_failed_count", "allowed_failed_percent")}
    )
