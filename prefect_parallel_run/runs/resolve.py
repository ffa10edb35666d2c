"""Resolves the run directory of a step: an unfinished run, a finished one to reuse, one that the user names, or a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.errors import InputChangedError, InputError, LimitExceededError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import inputs_sha256
from prefect_parallel_run.runs.create import (
    RunSelection,
    complete_plan,
    create_planned_run,
    create_run,
    discard_plan,
    name_prefix,
    plan_whole,
)
from prefect_parallel_run.runs.fingerprint import (
    InputCheck,
    breach_of,
    can_be_bisected,
    can_resume,
    differences,
    fingerprint_of,
    input_differences,
    is_unaltered,
    may_be_reused,
    some,
)
from prefect_parallel_run.runs.integrity import check, check_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import pull_runs
from prefect_parallel_run.runs.run_directory import RunDirectory, RunLock, read_json, runs_below
from prefect_parallel_run.runs.spec import StepSpec, planned_datasets
from prefect_parallel_run.storage.objects import names_below
from prefect_parallel_run.storage.paths import RUNS_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Options for resuming a given run directory."""

    directory: RunDirectory
    accept_changes: bool = False  #: keep finished mini-batches although inputs, script or arguments have changed
    retry_failed: bool = False  #: allow failed mini-batches new attempts
    given: frozenset[str] = frozenset()  #: configuration fields that the user has just set: they void earlier overrides
    same_task_run: bool = False  #: the run was started by this task run: its inputs are not verified again


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingRuns:
    """Earlier runs with the same fingerprint, newest first. Finding them locks and changes nothing."""

    now: dict[str, Any]  #: the current fingerprint, as ``run_fingerprint`` returns it
    unfinished: tuple[RunDirectory, ...] = ()  #: runs to resume, newer than *reusable*
    reusable: RunDirectory | None = None  #: a finished run whose result is unaltered, and whose failures are within the limits
    unplanned: tuple[RunDirectory, ...] = ()  #: runs that ended before their inputs were known

    @property
    def answer(self) -> RunDirectory | None:
        """Return the run whose result can be reused, unless a newer run can be resumed."""
        return None if self.unfinished else self.reusable


# Earlier runs


def has_existing_runs(spec: StepSpec) -> bool:
    """Check cheaply whether there is an earlier run with this name: only then are runs searched before a cluster opens."""
    name = f"{spec.name_in_paths}-"
    if not spec.reuse.is_allowed:
        return False
    if any(runs_below(spec.runs, name)):
        return True
    return spec.store is not None and any(entry.startswith(name) for entry in names_below(f"{spec.store}/{RUNS_FOLDER}"))


def find_existing_runs(spec: StepSpec, check_cancelled: CheckCancelled) -> ExistingRuns:
    """Return the earlier runs of a step; lists the inputs only if there are candidates."""
    now = fingerprint_of(spec)
    candidates = _candidates(spec, name_prefix(spec, now), check_cancelled)
    if not candidates:
        return ExistingRuns(now=now)
    inputs, unfinished, unplanned, reusable = None, [], [], None
    for run in candidates:
        in_run = spec.in_run(run)
        if inputs is None or in_run is not spec:
            inputs = Background("listing", partial(inputs_sha256, in_run.datasets)).wait(check_cancelled)
        planned_inputs = _planned_inputs(run)
        if planned_inputs not in (None, inputs) or not _may_have_hooks(run, spec):
            continue
        if planned_inputs is None:
            unplanned.append(run)
        elif not run.receipt.exists() or can_be_bisected(run, spec):
            unfinished.append(run)
        elif may_be_reused(run, spec):
            if run.plan.exists():  # it was not fetched from a store, where two files suffice to decide about reuse
                Background("checking", partial(check_plan, run)).wait(check_cancelled)
            reusable = run
            break
    return ExistingRuns(now=now, unfinished=tuple(unfinished), reusable=reusable, unplanned=tuple(unplanned))


def _candidates(spec: StepSpec, prefix: str, check_cancelled: CheckCancelled) -> list[RunDirectory]:
    """Return the runs that differ at most in their inputs, fetched first if the output is in a store."""
    if spec.store is not None:
        Background("pulling", partial(pull_runs, f"{spec.store}/{RUNS_FOLDER}", prefix, spec.runs)).wait(check_cancelled)
    return [run for run in runs_below(spec.runs, prefix) if spec.reuse.is_allowed or not run.receipt.exists()]


def _may_have_hooks(run: RunDirectory, spec: StepSpec) -> bool:
    """Return whether a run had the hooks of *spec*; runs of earlier versions, and of plain steps, do not record them.

    The same file may register other functions when it is imported under another name.
    """
    return spec.hooks is None or run.metadata().get("hooks") in (None, spec.hooks)


def _planned_inputs(directory: RunDirectory) -> str | None:
    """Return the hash of the inputs that a run was planned for; None if planning did not finish."""
    if directory.plan.exists():
        return Plan(directory.plan).summary.inputs_sha256
    sha256: str | None = directory.metadata()["identity"].get("inputs_sha256")
    return sha256


# A run that the step finds by itself


def get_or_create_run(spec: StepSpec, existing: ExistingRuns, check_cancelled: CheckCancelled) -> RunSelection:
    """Return the run directory of a step: an unfinished or reusable run with the same inputs, else a new one.

    The input of a new run is planned in the background.
    """
    for run in existing.unfinished:
        if (lock := _lock_resumable(run, spec, check_cancelled)) is not None:
            run.receipt.unlink(missing_ok=True)  # of a finished run that is resumed to bisect failed mini-batches
            return RunSelection(directory=run, lock=lock)
    if existing.reusable is not None:
        return RunSelection(directory=existing.reusable, lock=None)
    if existing.unplanned:
        return _complete_planning(existing.unplanned[0], spec, existing.now, check_cancelled)
    return create_run(spec, existing.now, check_cancelled)


def _lock_resumable(directory: RunDirectory, spec: StepSpec, check_cancelled: CheckCancelled) -> RunLock | None:
    """Return the lock of a run that can be resumed, else None; raises RunFileError when the run is damaged."""
    with ExitStack() as unless_returned:
        lock = unless_returned.enter_context(directory.lock())
        Background("checking", partial(check, directory)).wait(check_cancelled)
        if not can_resume(directory, spec):
            return None
        unless_returned.pop_all()
        return lock


def _complete_planning(
    unplanned: RunDirectory, spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled
) -> RunSelection:
    """Return a run that ended during planning, or a new one if its inputs have changed since."""
    lock = _lock_resumable(unplanned, spec, check_cancelled)
    if lock is None:
        return create_run(spec, now, check_cancelled)
    with ExitStack() as unless_returned:
        unless_returned.enter_context(lock)
        spec = spec.in_run(unplanned)
        planned = plan_whole(spec, check_cancelled)
        if complete_plan(unplanned, planned):
            unless_returned.pop_all()
            return RunSelection(directory=unplanned, lock=lock)
    return create_planned_run(spec, now, planned)


# A run that the user names


def resume_run(spec: StepSpec, now: dict[str, Any], request: ResumeRequest, check_cancelled: CheckCancelled) -> RunSelection:
    """Return the run directory that the user wants to resume, or a new one if accepted changes require a new plan.

    Raises:
        InputChangedError: The fingerprint differs, and changes are not accepted.
        LimitExceededError: The run is finished, and its failures exceed the current limits.
        RunLockedError: Another process executes the run.
        RunFileError: A file in the run directory is damaged.
    """
    old = request.directory
    selection = RunSelection(directory=old, lock=old.lock())
    if request.same_task_run:
        spec = replace(spec, datasets=planned_datasets(old))  # a table may have a newer version meanwhile
    spec = spec.in_run(old)
    try:
        Background("checking", partial(check, old)).wait(check_cancelled)
        if request.same_task_run and old.plan.exists():
            return selection
        if request.accept_changes or not old.plan.exists():
            selection = _plan_again(selection, spec, now, check_cancelled, accept_changes=request.accept_changes)
        else:
            _raise_if_changed(old, now, spec)
            _check_partitions(old)
            selection = replace(selection, check=InputCheck(old, spec))
        if request.retry_failed:
            return _allow_more_attempts(selection, check_cancelled)
        return _reuse_if_finished(selection, spec, request.given, check_cancelled)
    except BaseException:
        selection.close()
        raise


def _plan_again(
    selection: RunSelection, spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled, *, accept_changes: bool
) -> RunSelection:
    """Plan the input again; return the old run if nothing has changed, else a new run with all unchanged mini-batches.

    Raises:
        InputChangedError: The fingerprint differs, and changes are not accepted.
    """
    old = selection.directory
    planned = plan_whole(spec, check_cancelled)
    try:
        changes = some(chain(differences(old.metadata(), now), _input_changes(old, planned, spec)))
        if not changes:
            return selection
        if not accept_changes:
            raise InputChangedError(str(old.path), changes)
        with_new_plan = create_planned_run(spec, now, planned, carry_over_from=old)
    finally:
        discard_plan(planned)
    selection.close()
    return with_new_plan


def _input_changes(old: RunDirectory, planned: Path, spec: StepSpec) -> Iterator[str]:
    """Yield how the inputs differ from those of an old plan; completes an incomplete plan if its beginning is equal."""
    message = "the input files differ, or form other mini-batches"
    if not old.plan.exists():
        if not complete_plan(old, planned):
            yield message
    elif (before := Plan(old.plan)).summary.sha256 != Plan(planned).summary.sha256:
        yield from some(input_differences(before.mini_batches(), spec.datasets)) or [message]


def _raise_if_changed(old: RunDirectory, now: dict[str, Any], spec: StepSpec) -> None:
    """Raise InputChangedError with all differences; the inputs are compared here only if something else differs."""
    if changes := list(differences(old.metadata(), now)):
        inputs = input_differences(Plan(old.plan).mini_batches(), spec.datasets)
        raise InputChangedError(str(old.path), some([*changes, *inputs]))


def _check_partitions(directory: RunDirectory) -> None:
    """Raise InputError when the run reads a table that was partitioned on another machine's disk."""
    first = next(Plan(directory.plan).mini_batches(0, 1), None)
    for table in json.loads(first.work).get("tables", [])[:1] if first is not None else ():
        if f"/{RUNS_FOLDER}/partitions/" in table["path"] and not Path(table["path"]).exists():
            message = (
                "was written on the machine that started the run, for its partition_keys; resume the run there,"
                " or partition the table with partition_by beforehand"
            )
            raise InputError(table["path"], message)


def _allow_more_attempts(selection: RunSelection, check_cancelled: CheckCancelled) -> RunSelection:
    """Allow failed mini-batches new attempts, once the inputs are verified."""
    if selection.check is not None:
        selection.check.wait(check_cancelled)
    with Ledger(selection.directory.ledger) as ledger:
        granted = ledger.allow_more_attempts()
    selection.directory.receipt.unlink(missing_ok=True)
    return replace(selection, granted=granted)


def _reuse_if_finished(
    selection: RunSelection, spec: StepSpec, given: frozenset[str], check_cancelled: CheckCancelled
) -> RunSelection:
    """Return a finished run for reuse, or for a new reduction if its result was deleted or altered."""
    directory = selection.directory
    if not directory.receipt.exists():
        return selection
    if selection.check is not None:
        selection.check.wait(check_cancelled)
    receipt = read_json(directory.receipt)
    if not can_be_bisected(directory, spec):
        if (breach := breach_of(receipt, spec, given)) is not None:
            raise LimitExceededError(*breach, str(directory.path))
        if is_unaltered(receipt, spec):
            selection.close()
            return RunSelection(directory=directory, lock=None)
    directory.receipt.unlink()
    return selection
