"""The resolved specification of a step, from its configuration or from the description of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.environments import EnvironmentPlan, environment_plan, interpreter_of
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import FailureLimits
from prefect_parallel_run.planning.planner import Planning
from prefect_parallel_run.runs.commands import LIMITS
from prefect_parallel_run.runs.executions import config_of
from prefect_parallel_run.runs.run_directory import RunDirectory, prefect_home, workplace
from prefect_parallel_run.storage.paths import RUNS_FOLDER, literal_folder


class ScriptParameters(NamedTuple):
    """The values that the entry script receives in addition to mini-batches."""

    arguments: tuple[str, ...] = ()
    side_inputs: Mapping[str, str] = MappingProxyType({})  #: path by name


class Reuse(NamedTuple):
    """Which finished runs may be returned instead of running again."""

    is_allowed: bool = True
    within: float | None = None  #: s after the end of a run; None: forever


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """Specification of a step, with all paths and defaults resolved."""

    name: str
    config: ParallelRunConfig
    datasets: list[Dataset]
    output: str | None  #: absolute path of a folder, or a URL
    parameters: ScriptParameters = field(default_factory=ScriptParameters)
    hooks: dict[str, str] | None = None  #: a step's ``hook_names`` in the flow process; None if it has not imported the script
    reuse: Reuse = field(default_factory=Reuse)
    interpreter: str | EnvironmentPlan | None  #: runs the script: a path, an environment to build, or the Dask worker's own
    resolve: Callable[[str], str] = str  #: returns the value of a reference to a Prefect block
    home: Path  #: contains this machine's key, and the run directories of steps without output

    @property
    def name_in_paths(self) -> str:
        """Return the first part of the names of run directories."""
        return self.name.replace(" ", "_")

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Return the datasets as plain values."""
        return [{"kind": dataset.kind, **dataset.model_dump(mode="json")} for dataset in self.datasets]

    @property
    def planning(self) -> Planning:
        """Return the rules that divide the datasets into mini-batches."""
        return planning_of(self.config, self.datasets, self.runs / "partitions")

    def in_run(self, directory: RunDirectory) -> StepSpec:
        """Return the step as a run reads its inputs: from the run's copies of those that are read once."""
        if not any(dataset.reads_once for dataset in self.datasets):
            return self
        planned = planned_datasets(directory) if directory.description.exists() else self.datasets
        pairs = zip(self.datasets, planned, strict=True)
        return replace(
            self, datasets=[dataset.copied_to(directory.inputs, self.resolve, before.paths) for dataset, before in pairs]
        )

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Return the name and path of everything that every node must have on its file systems."""
        paths = [(str(dataset.name), literal_folder(path).rstrip("/")) for dataset in self.datasets for path in dataset.paths]
        paths += [(f"side input {name}", path) for name, path in self.parameters.side_inputs.items()]
        paths += [(f"model {name}", path) for name, path in self.config.models.items()]
        if self.output is not None and self.result is None:  # the script writes there itself
            paths.append(("output", self.output))
        return tuple((name, path.removeprefix("file://") or "/") for name, path in paths if not is_remote(path))

    @property
    def fetches(self) -> bool:
        """True when items are objects in a store, which nodes fetch."""
        return any(dataset.kind == "file" and is_remote(dataset.paths[0]) for dataset in self.datasets)

    @property
    def runs(self) -> Path:
        """Return the local folder that contains the step's run directories."""
        return workplace(self.output, self.home) / RUNS_FOLDER

    @property
    def store(self) -> str | None:
        """Return the URL of the output; None for a local folder."""
        return self.output if self.output is not None and is_remote(self.output) else None

    @property
    def result(self) -> str | None:
        """Return the path or URL of the result file."""
        name = self.config.result_file_name
        return f"{self.output}/{name}" if self.output is not None and name is not None else None

    @property
    def writes_output(self) -> bool:
        """True when the script may write to the output itself: there is no result file, or an argument contains its path."""
        is_argument = any(f"{self.output}/" in f"{argument}/" for argument in self.parameters.arguments)
        return self.output is not None and (self.result is None or is_argument)

    @property
    def result_format(self) -> str | None:
        """Return the format in which another step reads the result: "csv" is what pandas reads without further options."""
        if self.result is None:
            return None
        return "text" if self.config.append_row_csv_options else self.config.result_format

    @property
    def writes_into_inputs(self) -> bool:
        """True when files that the script writes to the output may appear among the inputs."""
        roots = [literal_folder(path) for dataset in self.datasets for path in dataset.paths]
        return self.output is not None and any(f"{self.output}/".startswith(root) for root in roots)

    def location_of(self, directory: RunDirectory) -> str:
        """Return the path or URL of a run directory, as users see it."""
        return str(directory.path) if self.store is None else f"{self.store}/{RUNS_FOLDER}/{directory.run_id}"


def planning_of(config: ParallelRunConfig, datasets: Sequence[Dataset], partitions: Path) -> Planning:
    """Return the rules that divide *datasets*; partitioned copies of tables are written to *partitions*."""
    size, columns = config.mini_batch_size_for(datasets[0].kind), config.append_row_input_columns or ()
    return Planning(datasets, size, config.partition_keys, partitions, columns)


def interpreter_for(config: ParallelRunConfig, *, is_here: bool) -> str | EnvironmentPlan | None:
    """Return a StepSpec's ``interpreter``.

    Args:
        config: The step's configuration.
        is_here: Nodes are processes of this machine, so that a missing interpreter is an error now.

    Raises:
        EnvironmentSetupError: The interpreter, or a conda file, does not exist.
    """
    environment = config.environment
    if isinstance(environment, Environment):
        return environment_plan(environment)
    if environment is None or is_here:
        return interpreter_of(environment)
    in_home = environment.startswith("~")  # each node expands its own home
    return environment if in_home else str(Path(environment).absolute())


def failure_limits(config: ParallelRunConfig) -> FailureLimits:
    """Return the failure limits in *config*."""
    return FailureLimits.of(dict(config))


def spec_of(directory: RunDirectory, overrides: Mapping[str, Any]) -> StepSpec:
    """Return the specification of the run in *directory*.

    *overrides* are configuration fields that do not affect the result: limits, counts, timeouts.

    Raises:
        ValueError: The script is missing, an override is invalid, or an environment variable of the run is not set.
        InputError: The run directory was moved.
    """
    metadata = directory.metadata()
    output = metadata["output"]
    home = prefect_home() if output is not None and is_remote(output) else Path(metadata["home"])
    expected_folder = workplace(output, home) / RUNS_FOLDER
    if not expected_folder.is_dir() or not expected_folder.samefile(directory.path.parent):
        raise InputError(str(directory.path), f"belongs in {expected_folder}; move it back or start a new run")
    names = metadata["environment_variables"]
    missing = [name for name in names if name not in os.environ]
    if missing:
        advice = "values are not stored; set these variables and retry"
        raise ValueError(f"environment_variables of the run are not set: {', '.join(missing)}; {advice}")
    variables = {name: os.environ[name] for name in names}
    current = config_of(directory)
    limits = {name: current[name] for name in LIMITS if name in current}  # overridden limits stay with the run
    config = ParallelRunConfig(**{**metadata["config"], **limits, **overrides, "environment_variables": variables})
    return StepSpec(
        name=metadata["step"],
        config=config,
        datasets=planned_datasets(directory),
        output=output,
        parameters=ScriptParameters(tuple(metadata["arguments"]), metadata["side_inputs"]),
        hooks=metadata.get("hooks"),  # earlier versions did not record them
        interpreter=interpreter_for(config, is_here=config.compute_target == LOCAL),
        home=home,
    )


def planned_datasets(directory: RunDirectory) -> list[Dataset]:
    """Return the datasets of the run in *directory*, with the versions of tables that its plan was made from."""
    return [_dataset(fields) for fields in directory.metadata()["inputs"]]


def table_versions(inputs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the version of each table that has versions, by the name of the input; *inputs* are datasets as plain values."""
    return {str(fields["name"]): fields["version"] for fields in inputs if fields.get("version") is not None}


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    values = {name: value for name, value in fields.items() if name != "kind"}
    if fields["kind"] == "file":
        return FileDataset.model_validate(values)
    from prefect_parallel_run.datasets.sql import SqlDataset  # noqa: PLC0415  only tables need pandas, seconds of import
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  only tables need pandas, seconds of import

    return (SqlDataset if "query" in values else TabularDataset).model_validate(values)
