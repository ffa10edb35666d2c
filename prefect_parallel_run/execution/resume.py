"""Restores the definition of a step from its run directory, so that the run can be resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.runs.commands import LIMITS
from prefect_parallel_run.runs.executions import config_of
from prefect_parallel_run.runs.run_directory import RunDirectory, prefect_home, workplace
from prefect_parallel_run.runs.spec import ScriptParameters, StepSpec, interpreter_for
from prefect_parallel_run.storage.paths import RUNS_FOLDER


def spec_of(directory: RunDirectory, overrides: Mapping[str, Any]) -> StepSpec:
    """Return the definition of the run in *directory*.

    *overrides* are configuration fields that do not affect the result: limits, counts, timeouts.

    Raises:
        ValueError: The script is missing, an override is invalid, or an environment variable of the run is not set.
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
        datasets=[_dataset(fields) for fields in metadata["inputs"]],
        output=output,
        parameters=ScriptParameters(tuple(metadata["arguments"]), metadata["side_inputs"]),
        interpreter=interpreter_for(config, is_here=config.compute_target == LOCAL),
        home=home,
    )


def _dataset(fields: Mapping[str, Any]) -> Dataset:
    kind: type[Dataset] = FileDataset if fields["kind"] == "file" else TabularDataset
    return kind.model_validate({name: value for name, value in fields.items() if name != "kind"})
