"""Creates run directories, with plan, ledger and run.json, and completes those of runs whose planning was interrupted.

A new run may take over results of an old one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from prefect_parallel_run._atomic import wrap_disk_errors
from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.models import MiniBatch
from prefect_parallel_run.planning.plan import Plan, content, planned_mini_batches
from prefect_parallel_run.planning.planner import Planner, PlanWriter
from prefect_parallel_run.runs.fingerprint import InputCheck, digest, with_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, RunLock, check_home, write_json
from prefect_parallel_run.runs.spec import StepSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSelection:
    """A run directory to work in."""

    directory: RunDirectory
    lock: RunLock | None  #: None: the run is finished, and its result can be returned
    planner: Planner | None = None  #: plans the input in the background; None: the plan is complete
    check: InputCheck | None = None  #: verifies the input in the background; None: it is verified
    granted: int | None = None  #: mini-batches that were allowed new attempts; None: the user did not ask for that

    def close(self) -> None:
        """Stop background work and release the run directory."""
        for work in (self.planner, self.check):
            if work is not None:
                work.stop()
        if self.lock is not None:
            self.lock.release()


def create_run(spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled) -> RunSelection:
    """Return a new run; planning happens in the background, or beforehand if the script may write into its inputs."""
    if spec.writes_into_inputs:
        return create_planned_run(spec, now, plan_whole(spec, check_cancelled))
    directory, lock = _new_run(spec, now)
    spec = spec.in_run(directory)
    Ledger.create(directory.ledger, ()).close()
    write_json(directory.description, _describe(spec, now))  # last: a run directory without it does not count as started
    return RunSelection(directory=directory, lock=lock, planner=Planner(spec.planning, directory.plan, directory.spool))


def create_planned_run(
    spec: StepSpec, now: dict[str, Any], planned: Path, carry_over_from: RunDirectory | None = None
) -> RunSelection:
    """Return a new run with a complete plan."""
    directory, lock = _new_run(spec, now)
    planned.replace(directory.plan)
    discard_plan(planned)
    plan = Plan(directory.plan)
    with Ledger.create(directory.ledger, plan.all_items()) as ledger:
        if carry_over_from is not None:
            _carry_over(carry_over_from, directory, plan, ledger)
    write_json(directory.description, _describe(spec, with_plan(now, plan.summary)))
    return RunSelection(directory=directory, lock=lock)


def name_prefix(spec: StepSpec, now: dict[str, Any]) -> str:
    """Return the common prefix of the names of runs that differ at most in their inputs."""
    return f"{spec.name_in_paths}-{digest(now['identity'])[:12]}-"


def step_of(run_id: str) -> str:
    """Return the name of the step that made a run.

    >>> step_of("score-images-78d693fc5b28-20261125T224333-80d950")
    'score-images'
    """
    return run_id.rsplit("-", 3)[0]


def discard_plan(planned: Path) -> None:
    """Delete an unused plan and its folder, if they exist."""
    shutil.rmtree(planned.parent, ignore_errors=True)


def complete_plan(directory: RunDirectory, planned: Path) -> bool:
    """Move a complete plan into a run that has only its beginning; False when that beginning differs."""
    with Ledger(directory.ledger) as ledger:
        known = ledger.planned()
    pairs = zip(planned_mini_batches(directory.plan, directory.spool), Plan(planned).mini_batches(), strict=False)
    if sum(before == after for before, after in islice(pairs, known)) < known:
        return False
    planned.replace(directory.plan)
    discard_plan(planned)
    return True


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
        discard_plan(path)
        raise
    return path


def complete_description(directory: RunDirectory, planner: Planner | None) -> dict[str, Any]:
    """Add the plan's hashes to run.json if they are missing, and return its content.

    They come from *planner* if it has just planned the input: the plan is large, and reading it again takes long.
    """
    description = directory.metadata()
    if "plan_sha256" not in description["identity"]:
        summary = planner.summary() if planner is not None else Plan(directory.plan).summary
        description = with_plan(description, summary)
        write_json(directory.description, description)
    return description


def _new_run(spec: StepSpec, now: dict[str, Any]) -> tuple[RunDirectory, RunLock]:
    """Return a new run directory, locked, with nothing in it."""
    _check_home(spec)
    begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    directory = RunDirectory(spec.runs / f"{name_prefix(spec, now)}{begun}-{uuid.uuid4().hex[:6]}")
    directory.make()
    return directory, directory.lock()


def _check_home(spec: StepSpec) -> None:
    """Raise PrefectHomeError when the run directory belongs in Prefect's home and that is not writable."""
    if spec.output is None or spec.store is not None:
        check_home(spec.home)


def _describe(spec: StepSpec, now: dict[str, Any]) -> dict[str, Any]:
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
        "hooks": spec.hooks,
        "home": str(spec.home),
    }


def _carry_over(old: RunDirectory, new: RunDirectory, plan: Plan, ledger: Ledger) -> None:
    """Copy state, attempts and rows of every mini-batch that both plans contain.

    Two mini-batches are equal when input name and items are, including each item's size and time. The new run gets its own
    part files (hard links where the file system allows), so that it does not depend on the old one.
    """
    old_numbers = {_digest(mini_batch): mini_batch.number for mini_batch in planned_mini_batches(old.plan, old.spool)}
    numbers = ((old_numbers.get(_digest(mini_batch)), mini_batch.number) for mini_batch in plan.mini_batches())
    pairs = [(number, new_number) for number, new_number in numbers if number is not None]
    prefix = f"{hashlib.sha256(old.run_id.encode()).hexdigest()[:6]}."
    for part in old.parts.iterdir():
        try:
            os.link(part, new.parts / f"{prefix}{part.name}")
        except OSError:  # a file system without hard links
            shutil.copyfile(part, new.parts / f"{prefix}{part.name}")
    ledger.copy_from(old.ledger, pairs, prefix)


def _digest(mini_batch: MiniBatch) -> bytes:
    text = content(mini_batch.input_name, mini_batch.items, mini_batch.work)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()
