"""Resolves the run directory of a step: an unfinished run, a finished one to reuse, one that the user names, or a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background, CheckCancelled
from prefect_parallel_run.errors import InputChangedError, InputError, LimitExceededError, RowsDifferError
from prefect_parallel_run.planning.plan import Plan, planned_mini_batches
from prefect_parallel_run.planning.planner import Planner, inputs_sha256
from prefect_parallel_run.runs.create import describe, discard, name_prefix, new_run, plan_whole, planned_run
from prefect_parallel_run.runs.diff import differences, input_differences, some
from prefect_parallel_run.runs.fingerprint import run_fingerprint
from prefect_parallel_run.runs.input_verification import InputCheck
from prefect_parallel_run.runs.integrity import check, check_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import pull_runs
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.reuse import breach_of, is_unaltered, may_be_reused
from prefect_parallel_run.runs.run_directory import RunDirectory, RunLock, read_json, runs_below, write_json
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import names_below
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_NEWER_DEFAULTS = (("column_types", None), ("na_values", None), ("keep_default_na", True))  #: fields of a dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Options for resuming a given run directory."""

    directory: RunDirectory
    accept_changes: bool = False  #: keep finished mini-batches although inputs, script or arguments have changed
    retry_failed: bool = False  #: allow failed mini-batches new attempts
    given: frozenset[str] = frozenset()  #: configuration fields that the user has just set: earlier overrides of them are void
    same_task_run: bool = False  #: the run was started by this task run: its inputs are not verified again


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingRuns:
    """Earlier runs with the same fingerprint, newest first. Finding them locks and changes nothing."""

    now: dict[str, Any]  #: the present fingerprint, as ``run_fingerprint`` returns it
    unfinished: tuple[RunDirectory, ...] = ()  #: runs to resume, newer than *reusable*
    reusable: RunDirectory | None = None  #: a finished run whose result is unaltered, and whose failures are within the limits
    unplanned: tuple[RunDirectory, ...] = ()  #: runs that ended before their inputs were known

    @property
    def answer(self) -> RunDirectory | None:
        """Return the run whose result can be reused, unless a newer run can be resumed."""
        return None if self.unfinished else self.reusable


def has_existing_runs(spec: StepSpec) -> bool:
    """Cheap check whether there is any earlier run with this name, so that a search before opening a cluster pays off."""
    name = f"{spec.name_in_paths}-"
    if not spec.allow_reuse:
        return False
    if any(runs_below(spec.runs, name)):
        return True
    return spec.store is not None and any(entry.startswith(name) for entry in names_below(f"{spec.store}/{RUNS_FOLDER}"))


def dataset_fingerprint(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataset that affect its items, without the defaults of fields that earlier versions lacked."""
    return {key: value for key, value in fields.items() if key != "allow_empty" and (key, value) not in _NEWER_DEFAULTS}


def fingerprint_of(spec: StepSpec) -> dict[str, Any]:
    """Return the fingerprint of *spec* without the contents of its inputs."""
    return run_fingerprint(
        spec.config,
        inputs=[dataset_fingerprint(fields) for fields in spec.inputs],
        arguments=list(spec.arguments),
        side_inputs=dict(spec.side_inputs),
        key=spec.key,
    )


def find_existing_runs(spec: StepSpec, check_cancelled: CheckCancelled) -> ExistingRuns:
    """Return the earlier runs of a step; lists the inputs only if there are candidates."""
    now = fingerprint_of(spec)
    prefix = name_prefix(spec, now)
    if spec.store is not None:
        copies = f"{spec.store}/{RUNS_FOLDER}"
        Background("pulling", lambda check_cancelled: pull_runs(copies, prefix, spec.runs, check_cancelled)).wait(
            check_cancelled
        )
    candidates = [run for run in runs_below(spec.runs, prefix) if spec.allow_reuse or not run.receipt.exists()]
    if not candidates:
        return ExistingRuns(now=now)
    inputs = Background("listing", lambda check_cancelled: inputs_sha256(spec.datasets, check_cancelled)).wait(check_cancelled)
    unfinished, unplanned, reusable = [], [], None
    for run in candidates:
        planned_inputs = _planned_inputs(run)
        if planned_inputs is None:
            unplanned.append(run)
        elif planned_inputs == inputs and (not run.receipt.exists() or _can_be_bisected(run, spec)):
            unfinished.append(run)
        elif planned_inputs == inputs and may_be_reused(run, spec):
            if run.plan.exists():  # it was not fetched from a store, where two files suffice to decide about reuse
                Background("checking", partial(check_plan, run)).wait(check_cancelled)
            reusable = run
            break
    return ExistingRuns(now=now, unfinished=tuple(unfinished), reusable=reusable, unplanned=tuple(unplanned))


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
    return _start_new(spec, existing.now, check_cancelled)


def _planned_inputs(directory: RunDirectory) -> str | None:
    """Return the hash of the inputs that a run was planned for; None if planning did not finish."""
    if directory.plan.exists():
        return Plan.open(directory.plan).summary.inputs_sha256
    sha256: str | None = directory.facts()["identity"].get("inputs_sha256")
    return sha256


def resume_run(spec: StepSpec, now: dict[str, Any], request: ResumeRequest, check_cancelled: CheckCancelled) -> RunSelection:
    """Return the run directory that the user wants to resume, or a new one if accepted changes require a new plan.

    Raises:
        InputChangedError: The fingerprint differs, and changes are not accepted.
        LimitExceededError: The run is finished, and its failures exceed the present limits.
        RunLockedError: Another process executes the run.
        RunFileError: A file in the run directory is damaged.
    """
    old = request.directory
    lock = old.lock()
    selection = RunSelection(directory=old, lock=lock)
    try:
        Background("checking", partial(check, old)).wait(check_cancelled)
        if request.same_task_run and old.plan.exists():
            return selection
        if request.accept_changes or not old.plan.exists():
            selection = _plan_again(spec, now, request, lock, check_cancelled)
        else:
            _raise_if_changed(old, _differences(old, now, spec))
            _check_partitions(old)
            selection = RunSelection(directory=old, lock=lock, check=InputCheck(old, spec))
        return (
            _allow_more_attempts(selection, check_cancelled)
            if request.retry_failed
            else _reuse_if_finished(selection, spec, request.given, check_cancelled)
        )
    except BaseException:
        selection.close()
        raise


def _raise_if_changed(directory: RunDirectory, changes: tuple[str, ...]) -> None:
    if changes:
        raise InputChangedError(str(directory.path), changes)


def _check_partitions(directory: RunDirectory) -> None:
    """Raise InputError when the run reads a table that was partitioned on another machine's disk."""
    first = next(Plan.open(directory.plan).mini_batches(0, 1), None)
    for table in json.loads(first.work).get("tables", [])[:1] if first is not None else ():
        if f"/{RUNS_FOLDER}/partitions/" in table["path"] and not Path(table["path"]).exists():
            message = (
                "was written on the machine that started the run, for its partition_keys; resume the run there,"
                " or partition the table with partition_by beforehand"
            )
            raise InputError(table["path"], message)


def _differences(old: RunDirectory, now: dict[str, Any], spec: StepSpec) -> tuple[str, ...]:
    """Return all differences; the inputs are compared here only if something else differs, to name all in one error."""
    changes = list(differences(old.facts(), now))
    return some([*changes, *input_differences(Plan.open(old.plan).mini_batches(), spec.datasets)]) if changes else ()


def _start_new(spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled) -> RunSelection:
    """Return a new run; planning happens in the background, or beforehand if the script may write into its inputs."""
    if spec.writes_into_inputs:
        directory, lock = planned_run(spec, now, plan_whole(spec, check_cancelled))
        return RunSelection(directory=directory, lock=lock)
    directory, lock = new_run(spec, now)
    Ledger.create(directory.ledger, ()).close()
    write_json(directory.description, describe(spec, now))  # last: a run directory without it does not count as started
    return RunSelection(directory=directory, lock=lock, planner=Planner(spec.planning, directory.plan, directory.spool))


def _complete_planning(
    unplanned: RunDirectory, spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled
) -> RunSelection:
    """Return a run that ended during planning, or a new one if its inputs have changed since."""
    lock = _lock_resumable(unplanned, spec, check_cancelled)
    if lock is None:
        return _start_new(spec, now, check_cancelled)
    try:
        planned = plan_whole(spec, check_cancelled)
        if _complete_plan(unplanned, planned):
            return RunSelection(directory=unplanned, lock=lock)
    except BaseException:
        lock.release()
        raise
    lock.release()
    directory, lock = planned_run(spec, now, planned)
    return RunSelection(directory=directory, lock=lock)


def _lock_resumable(directory: RunDirectory, spec: StepSpec, check_cancelled: CheckCancelled) -> RunLock | None:
    """Return the lock of a run that can be resumed, else None.

    Raises:
        RunFileError: A file in the run directory is damaged.
    """
    lock = directory.lock()
    try:
        Background("checking", partial(check, directory)).wait(check_cancelled)
        if _can_resume(directory, spec):
            return lock
    except BaseException:
        lock.release()
        raise
    lock.release()
    return None


def _plan_again(
    spec: StepSpec, now: dict[str, Any], request: ResumeRequest, lock: RunLock, check_cancelled: CheckCancelled
) -> RunSelection:
    """Plan the input again; return the old run if nothing has changed, else a new run with all unchanged mini-batches.

    Raises:
        InputChangedError: The fingerprint differs, and changes are not accepted.
    """
    old = request.directory
    planned = plan_whole(spec, check_cancelled)
    try:
        changes = some(chain(differences(old.facts(), now), _input_changes(old, planned, spec)))
        if not changes:
            return RunSelection(directory=old, lock=lock)
        _raise_if_changed(old, () if request.accept_changes else changes)
        directory, new_lock = planned_run(spec, now, planned, carry_over_from=old)
    finally:
        discard(planned)
    lock.release()
    return RunSelection(directory=directory, lock=new_lock)


def _input_changes(old: RunDirectory, planned: Path, spec: StepSpec) -> Iterator[str]:
    """Yield how the inputs differ from those of an old plan; completes an incomplete plan if its beginning is equal."""
    message = "the input files differ, or form other mini-batches"
    if not old.plan.exists():
        if not _complete_plan(old, planned):
            yield message
    elif (before := Plan.open(old.plan)).summary.sha256 != Plan.open(planned).summary.sha256:
        yield from some(input_differences(before.mini_batches(), spec.datasets)) or [message]


def _complete_plan(directory: RunDirectory, planned: Path) -> bool:
    """Move a complete plan into a run that has only its beginning; False when that beginning differs."""
    with Ledger(directory.ledger) as ledger:
        known = ledger.planned()
    pairs = zip(planned_mini_batches(directory.plan, directory.spool), Plan.open(planned).mini_batches(), strict=False)
    if sum(before == after for before, after in islice(pairs, known)) < known:
        return False
    planned.replace(directory.plan)
    discard(planned)
    return True


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
    if _can_be_bisected(directory, spec):
        directory.receipt.unlink()
        return selection
    if (breach := breach_of(receipt, spec, given)) is not None:
        raise LimitExceededError(*breach, str(directory.path))
    if not is_unaltered(receipt, spec):
        directory.receipt.unlink()
        return selection
    selection.close()
    return RunSelection(directory=directory, lock=None)


def _can_resume(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for an interrupted run; for a failed one only if its failures are within the present limits."""
    with Ledger(directory.ledger) as ledger:
        tally = ledger.tally()
        if not directory.plan.exists():  # planning did not finish
            tally = replace(tally, all_scheduled=False)
        if spec.config.isolate_failed_items:  # a resume bisects these
            count, items = ledger.isolable()
            tally = replace(tally, failed=tally.failed - count, failed_items=tally.failed_items - items)
        config = Adjustments.of_ledger(ledger).of(spec.config)
        facts = ledger.facts()
        ended_by, is_unfinished = facts.get("ended_by"), tally.finished < tally.planned
        may_succeed = ended_by == LimitExceededError.__name__ or (is_unfinished and ended_by != RowsDifferError.__name__)
        return failure_limits(config).first_breach(tally) is None and (facts.get("status") != "failed" or may_succeed)


def _can_be_bisected(directory: RunDirectory, spec: StepSpec) -> bool:
    """True when *spec* isolates failed items and the run has failed mini-batches that were not bisected."""
    if not spec.config.isolate_failed_items:
        return False
    with Ledger(directory.ledger) as ledger:
        return ledger.isolable()[0] > 0
