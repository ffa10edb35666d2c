"""Creates a run directory: its name, its description, and its plan if the input is planned beforehand.

The description, run.json, also restores the definition of the step when the run is resumed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prefect_parallel_run._atomic import wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.tabular import TabularDataset
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Plan, content, planned_mini_batches
from prefect_parallel_run.planning.planner import Planner, PlanWriter
from prefect_parallel_run.runs.commands import LIMITS
from prefect_parallel_run.runs.executions import config_of
from prefect_parallel_run.runs.fingerprint import digest, with_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, RunLock, check_home, prefect_home, workplace, write_json
from prefect_parallel_run.runs.spec import ScriptParameters, StepSpec, interpreter_for
from prefect_parallel_run.storage.paths import RUNS_FOLDER


def name_prefix(spec: StepSpec, now: dict[str, Any]) -> str:
    """Return the common prefix of the names of runs that differ at most in their inputs."""
    return f"{spec.name_in_paths}-{digest(now['identity'])[:12]}-"


def step_of(run_id: str) -> str:
    """Return the name of the step that made a run.

    >>> step_of("score-images-78d693fc5b28-20261125T224333-80d950")
    'score-images'
    """
    return run_id.rsplit("-", 3)[0]


def discard(planned: Path) -> None:
    """Delete an unused plan and its folder, if they exist."""
    shutil.rmtree(planned.parent, ignore_errors=True)


def complete_plan(directory: RunDirectory, planned: Path) -> bool:
    """Move a complete plan into a run that has only its beginning; False when that beginning differs."""
    with Ledger(directory.ledger) as ledger:
        known = ledger.planned()
    pairs = zip(planned_mini_batches(directory.plan, directory.spool), Plan.open(planned).mini_batches(), strict=False)
    if sum(before == after for before, after in islice(pairs, known)) < known:
        return False
    planned.replace(directory.plan)
    discard(planned)
    return True


def _check_home(spec: StepSpec) -> None:
    """Raise PrefectHomeError when the run directory belongs in Prefect's home and that is not writable."""
    if spec.output is None or spec.store is not None:
        check_home(spec.home)


def plan_whole(spec: StepSpec, check_cancelled: CheckCancelled) -> Path:
    """Plan the whole input in a temporary folder and return the plan's path."""
    _check_home(spec)
    folder = spec.runs / f".planning-{uuid.uuid4().hex}"
    with wrap_disk_errors(spec.runs, "created"):
        folder.mkdir(parents=True)
    path = folder / "plan.parquet"
    work = Background("planning", partial(spec.planning.write, PlanWriter(path)))
    try:
        work.wait(check_cancelled)
    except BaseException:
        discard(path)
        raise
    return path


def new_run(spec: StepSpec, now: dict[str, Any]) -> tuple[RunDirectory, RunLock]:
    """Return a new run directory, locked, with nothing in it."""
    _check_home(spec)
    begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    directory = RunDirectory(spec.runs / f"{name_prefix(spec, now)}{begun}-{uuid.uuid4().hex[:6]}")
    directory.make()
    return directory, directory.lock()


def planned_run(
    spec: StepSpec, now: dict[str, Any], planned: Path, carry_over_from: RunDirectory | None = None
) -> tuple[RunDirectory, RunLock]:
    """Return a new, locked run directory with a complete plan."""
    directory, lock = new_run(spec, now)
    planned.replace(directory.plan)
    discard(planned)
    plan = Plan.open(directory.plan)
    with Ledger.create(directory.ledger, plan.all_items()) as ledger:
        if carry_over_from is not None:
            _carry_over(carry_over_from, directory, plan, ledger)
    write_json(directory.description, describe(spec, with_plan(now, plan.summary)))
    return directory, lock


def describe(spec: StepSpec, now: dict[str, Any]) -> dict[str, Any]:
    """Return the content of run.json: how the run was started, so that any process can resume it."""
    config = spec.config.model_dump(mode="json", exclude={"environment_variables"})
    if spec.config.source_directory is None:
        config["entry_script"] = str(spec.config.script_path)  # the run may be resumed from another working directory
    else:
        config["source_directory"] = str(spec.config.source_path)
    return {
        "step": spec.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **now,
        "config": config,
        "environment_variables": sorted(spec.config.environment_variables),  # names only: the values are secrets
        "inputs": spec.inputs,
        "output": spec.output,
        "side_inputs": dict(spec.parameters.side_inputs),
        "arguments": list(spec.parameters.arguments),
        "home": str(spec.home),
    }


def complete_description(directory: RunDirectory, planner: Planner | None) -> dict[str, Any]:
    """Add the plan's hashes to run.json if they are missing, and return its content.

    They come from *planner* if it has just planned the input: the plan is large, and reading it again takes long.
    """
    description = directory.metadata()
    if "plan_sha256" not in description["identity"]:
        summary = planner.summary() if planner is not None else Plan.open(directory.plan).summary
        description = with_plan(description, summary)
        write_json(directory.description, description)
    return description


def _carry_over(old: RunDirectory, new: RunDirectory, plan: Plan, ledger: Ledger) -> int:
    """Copy state, attempts and rows of every mini-batch that both plans contain; return how many had been started.

    Two mini-batches are equal when input name and items are, including each item's size and time. The new run gets its own
    part files (hard links where the file system allows), so that it does not depend on the old one.
    """
    old_numbers = {_digest(mini_batch): mini_batch.number for mini_batch in planned_mini_batches(old.plan, old.spool)}
    pairs = []
    for mini_batch in plan.mini_batches():
        number = old_numbers.get(_digest(mini_batch))
        if number is not None:
            pairs.append((number, mini_batch.number))
    prefix = f"{hashlib.sha256(old.run_id.encode()).hexdigest()[:6]}."
    for part in old.parts.iterdir():
        _link(part, new.parts / f"{prefix}{part.name}")
    return ledger.copy_from(old.ledger, pairs, prefix)


def _digest(mini_batch: MiniBatch) -> bytes:
    text = content(mini_batch.input_name, mini_batch.items, mini_batch.work)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


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
