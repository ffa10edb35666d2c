"""Creates a run directory: its name, its description, and its plan if the input is planned beforehand."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from prefect_parallel_run._atomic import wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import Planner, PlanWriter
from prefect_parallel_run.runs.carry_over import carry_over
from prefect_parallel_run.runs.fingerprint import digest, with_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, RunLock, check_home, write_json
from prefect_parallel_run.runs.spec import StepSpec


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
    work = Background("planning", lambda check_cancelled: spec.planning.write(PlanWriter(path), check_cancelled))
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
            carry_over(carry_over_from, directory, plan, ledger)
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
        "side_inputs": dict(spec.side_inputs),
        "arguments": list(spec.arguments),
        "home": str(spec.home),
    }


def complete_description(directory: RunDirectory, planner: Planner | None) -> dict[str, Any]:
    """Add the plan's hashes to run.json if they are missing, and return its content.

    They come from *planner* if it has just planned the input: the plan is large, and reading it again takes long.
    """
    description = directory.facts()
    if "plan_sha256" not in description["identity"]:
        summary = planner.summary() if planner is not None else Plan.open(directory.plan).summary
        description = with_plan(description, summary)
        write_json(directory.description, description)
    return description
