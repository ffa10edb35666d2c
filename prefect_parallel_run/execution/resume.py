"""From a run directory back to what the step was asked to do, so that a person can go on with it."""

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
from prefect_parallel_run.runs.fingerprint import machine_key
from prefect_parallel_run.runs.mirror import pull
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, no_run, place_here, prefect_home, workplace
from prefect_parallel_run.runs.spec import StepSpec, where_it_runs


def open_run_directory(place: str, *, parts: bool = True) -> RunDirectory:
    """Return the run directory at a path or URL; raises NoRunError when it is none.

    One in a store is copied to this machine first, unless it was driven here last; without *parts* only to be looked at.
    """
    directory = RunDirectory(place_here(place))
    if is_remote(place):
        directory.path.parent.mkdir(parents=True, exist_ok=True)
        pull(place.rstrip("/"), directory.path, parts=parts)
    if not directory.description.is_file():
        raise no_run(place, directory)
    return directory


def spec_of(directory: RunDirectory, overrides: Mapping[str, Any]) -> StepSpec:
    """Return what the run in *directory* was asked to do.

    Args:
        directory: Of the run.
        overrides: Configuration fields that may be others now, since they do not shape the result: limits, counts, timeouts.

    Raises:
        ValueError: The script is gone, an override is wrong, or an environment variable of the run is not set here.
    """
    facts = directory.facts()
    output = facts["output"]
    home = prefect_home() if output is not None and is_remote(output) else Path(facts["home"])
    made_in = workplace(output, home) / FOLDER
    if not made_in.is_dir() or not made_in.samefile(directory.path.parent):
        raise InputError(str(directory.path), f"was made in {made_in}; move it back, or start its flow anew")
    names = facts["environment_variables"]
    missing = [name for name in names if name not in os.environ]
    if missing:
        words = "their values are not kept; set them and try again"
        raise ValueError(f"the run was made with environment_variables {', '.join(missing)}: {words}")
    variables = {name: os.environ[name] for name in names}
    in_force = config_of(directory)
    limits = {name: in_force[name] for name in LIMITS if name in in_force}  # they stay with the run, once they were given
    config = ParallelRunConfig(**{**facts["config"], **limits, **overrides, "environment_variables": variables})
    return StepSpec(
        name=facts["step"],
        config=config,
        datasets=[_dataset(given) for given in facts["inputs"]],
        output=output,
        side_inputs=facts["side_inputs"],
        arguments=tuple(facts["arguments"]),
        allow_reuse=True,
        **where_it_runs(config, is_here=config.compute_target == LOCAL),
        home=home,
        key=machine_key(home),
    )


def _dataset(given: Mapping[str, Any]) -> Dataset:
    kind: type[Dataset] = FileDataset if given["kind"] == "file" else TabularDataset
    return kind.model_validate({name: value for name, value in given.items() if name != "kind"})
