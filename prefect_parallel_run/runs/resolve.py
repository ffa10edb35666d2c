"""Which run directory a step works in: an unfinished one, a finished one to reuse, one that a person names, or a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background
from prefect_parallel_run.errors import InputChangedError, InputError, LimitExceededError, RowsDifferError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import Planner
from prefect_parallel_run.planning.spool import planned_in
from prefect_parallel_run.planning.writing import inputs_sha256
from prefect_parallel_run.runs.create import CheckCancelled, describe, discard, name_prefix, new_run, plan_whole, planned_run
from prefect_parallel_run.runs.diff import differences, input_differences, some
from prefect_parallel_run.runs.fingerprint import run_fingerprint
from prefect_parallel_run.runs.input_verification import InputCheck
from prefect_parallel_run.runs.integrity import check, check_plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import pull_runs
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.reuse import breach_of, is_unaltered, may_be_reused
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, RunLock, read_json, runs_below, write_json
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import names_below

_NEWER_DEFAULTS = (("column_types", None), ("na_values", None), ("keep_default_na", True))  #: of a dataset's fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """How to go on with a run directory of one's choice."""

    directory: RunDirectory
    accept_changes: bool = False  #: keep what is finished although inputs, script or arguments are others now
    retry_failed: bool = False  #: give failed mini-batches a fresh set of tries
    given: frozenset[str] = frozenset()  #: configuration fields that a person has just given: what was ordered before is void
    same_task_run: bool = False  #: it was begun for this very task run: what it was planned for is not looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSelection:
    """A run directory to work in."""

    directory: RunDirectory
    lock: RunLock | None  #: None: the run is finished, and its result can be returned
    planner: Planner | None = None  #: plans the input meanwhile; None: the plan is whole
    check: InputCheck | None = None  #: compares the input with the plan meanwhile; None: it is the planned one
    granted: int | None = None  #: mini-batches that are tried again because a person wants that; None: nobody does

    def close(self) -> None:
        """End what goes on in the background, and give the run directory up."""
        for work in (self.planner, self.check):
            if work is not None:
                work.stop()
        if self.lock is not None:
            self.lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingRuns:
    """What there is already of a step: its earlier runs that are the same, the newest first. Nothing is locked or changed."""

    now: dict[str, Any]  #: what makes a run the same run, as ``run_fingerprint`` returns it
    unfinished: tuple[RunDirectory, ...] = ()  #: those to go on with, newer than *reusable*
    reusable: RunDirectory | None = None  #: a finished one whose result is unaltered, and whose failures are forgiven
    unplanned: tuple[RunDirectory, ...] = ()  #: ended before their inputs were known

    @property
    def answer(self) -> RunDirectory | None:
        """Return the run whose result is the step's, when there is nothing newer to go on with."""
        return None if self.unfinished else self.reusable


def has_existing_runs(spec: StepSpec) -> bool:
    """True where a run of that name exists, so that a look is worth its time before a cluster opens; costs next to nothing."""
    name = f"{spec.name_in_paths}-"
    if not spec.allow_reuse:
        return False
    if any(runs_below(spec.runs, name)):
        return True
    return spec.store is not None and any(found.startswith(name) for found in names_below(f"{spec.store}/{FOLDER}"))


def dataset_fingerprint(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataset that change its items, leaving out defaults of fields that earlier versions lacked."""
    return {key: value for key, value in given.items() if key != "allow_empty" and (key, value) not in _NEWER_DEFAULTS}


def fingerprint_of(spec: StepSpec) -> dict[str, Any]:
    """Return what makes a run of *spec* the same run, but what lies in its inputs."""
    return run_fingerprint(
        spec.config,
        inputs=[dataset_fingerprint(given) for given in spec.inputs],
        arguments=list(spec.arguments),
        side_inputs=dict(spec.side_inputs),
        key=spec.key,
    )


def find_existing_runs(spec: StepSpec, check_cancelled: CheckCancelled) -> ExistingRuns:
    """Return what there is of a step. Only when an earlier run may be the same are the inputs listed."""
    now = fingerprint_of(spec)
    prefix = name_prefix(spec, now)
    if spec.store is not None:
        copies = f"{spec.store}/{FOLDER}"
        Background("pulling", lambda check_cancelled: pull_runs(copies, prefix, spec.runs, check_cancelled)).wait(
            check_cancelled
        )
    earlier = [found for found in runs_below(spec.runs, prefix) if spec.allow_reuse or not found.receipt.exists()]
    if not earlier:
        return ExistingRuns(now=now)
    inputs = Background("listing", lambda check_cancelled: inputs_sha256(spec.datasets, check_cancelled)).wait(check_cancelled)
    unfinished, unplanned, reusable = [], [], None
    for found in earlier:
        planned_for = _inputs_of(found)
        if planned_for is None:
            unplanned.append(found)
        elif planned_for == inputs and (not found.receipt.exists() or _can_be_isolated(found, spec)):
            unfinished.append(found)
        elif planned_for == inputs and may_be_reused(found, spec):
            if found.plan.exists():  # of a run in a store only what tells whether it is the same was fetched
                Background("checking", partial(check_plan, found)).wait(check_cancelled)
            reusable = found
            break
    return ExistingRuns(now=now, unfinished=tuple(unfinished), reusable=reusable, unplanned=tuple(unplanned))


def get_or_create_run(spec: StepSpec, look: ExistingRuns, check_cancelled: CheckCancelled) -> RunSelection:
    """Return the run directory of a step: one with the same inputs that is unfinished or can be reused, else a new one.

    The input of a new run is planned in the background.
    """
    for found in look.unfinished:
        if (lock := _taken(found, spec, check_cancelled)) is not None:
            found.receipt.unlink(missing_ok=True)  # of a run that is finished but for guilty items to be found
            return RunSelection(directory=found, lock=lock)
    if look.reusable is not None:
        return RunSelection(directory=look.reusable, lock=None)
    if look.unplanned:
        return _go_on_planning(look.unplanned[0], spec, look.now, check_cancelled)
    return _begin(spec, look.now, check_cancelled)


def _inputs_of(directory: RunDirectory) -> str | None:
    """Return the hash of what a run was planned for; None for one that was never planned to the end."""
    if directory.plan.exists():
        return Plan.open(directory.plan).summary.inputs_sha256
    found: str | None = directory.facts()["identity"].get("inputs_sha256")
    return found


def resume_run(spec: StepSpec, now: dict[str, Any], resumption: ResumeRequest, check_cancelled: CheckCancelled) -> RunSelection:
    """Return the run directory that a person wants to go on with; a new one when accepted changes make it another.

    Raises:
        InputChangedError: The run was planned for something else, and changes are not accepted.
        LimitExceededError: It is finished, and today's limits do not forgive what failed.
        RunLockedError: Another process drives it.
        RunFileError: A file in it is damaged.
    """
    old = resumption.directory
    lock = old.lock()
    choice = RunSelection(directory=old, lock=lock)
    try:
        Background("checking", partial(check, old)).wait(check_cancelled)
        if resumption.same_task_run and old.plan.exists():
            return choice
        if resumption.accept_changes or not old.plan.exists():
            choice = _plan_again(spec, now, resumption, lock, check_cancelled)
        else:
            _refuse(old, _differences(old, now, spec))
            _check_partitions(old)
            choice = RunSelection(directory=old, lock=lock, check=InputCheck(old, spec))
        return (
            _grant(choice, check_cancelled)
            if resumption.retry_failed
            else _finished(choice, spec, resumption.given, check_cancelled)
        )
    except BaseException:
        choice.close()
        raise


def _refuse(directory: RunDirectory, changes: tuple[str, ...]) -> None:
    if changes:
        raise InputChangedError(str(directory.path), changes)


def _check_partitions(directory: RunDirectory) -> None:
    """Raise InputError when the run reads a table that was partitioned on another machine's disk."""
    first = next(Plan.open(directory.plan).mini_batches(0, 1), None)
    for table in json.loads(first.work).get("tables", [])[:1] if first is not None else ():
        if f"/{FOLDER}/partitions/" in table["path"] and not Path(table["path"]).exists():
            words = "was written where the run was begun, for its partition_keys; go on there, or use partition_by beforehand"
            raise InputError(table["path"], words)


def _differences(old: RunDirectory, now: dict[str, Any], spec: StepSpec) -> tuple[str, ...]:
    """Return what is different; the inputs are looked at here only when something else is, to name all at once."""
    found = list(differences(old.facts(), now))
    return some([*found, *input_differences(Plan.open(old.plan).mini_batches(), spec.datasets)]) if found else ()


def _begin(spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled) -> RunSelection:
    """Return a new run whose input is planned from now on; beforehand where the script could write among its inputs."""
    if spec.writes_into_inputs:
        directory, lock = planned_run(spec, now, plan_whole(spec, check_cancelled))
        return RunSelection(directory=directory, lock=lock)
    directory, lock = new_run(spec, now)
    Ledger.create(directory.ledger, ()).close()
    write_json(directory.description, describe(spec, now))  # last: a run directory without it was never begun
    return RunSelection(directory=directory, lock=lock, planner=Planner(spec.planning, directory.plan, directory.spool))


def _go_on_planning(found: RunDirectory, spec: StepSpec, now: dict[str, Any], check_cancelled: CheckCancelled) -> RunSelection:
    """Return a run that ended while its input was being planned; a new one when that has changed meanwhile."""
    lock = _taken(found, spec, check_cancelled)
    if lock is None:
        return _begin(spec, now, check_cancelled)
    try:
        planned = plan_whole(spec, check_cancelled)
        if _complete(found, planned):
            return RunSelection(directory=found, lock=lock)
    except BaseException:
        lock.release()
        raise
    lock.release()
    directory, lock = planned_run(spec, now, planned)
    return RunSelection(directory=directory, lock=lock)


def _taken(directory: RunDirectory, spec: StepSpec, check_cancelled: CheckCancelled) -> RunLock | None:
    """Return the lock of a run that can be gone on with; None for one that cannot.

    Raises:
        RunFileError: A file in it is damaged.
    """
    lock = directory.lock()
    try:
        Background("checking", partial(check, directory)).wait(check_cancelled)
        if _can_go_on(directory, spec):
            return lock
    except BaseException:
        lock.release()
        raise
    lock.release()
    return None


def _plan_again(
    spec: StepSpec, now: dict[str, Any], resumption: ResumeRequest, lock: RunLock, check_cancelled: CheckCancelled
) -> RunSelection:
    """Plan the input of a run anew; return that run where nothing has changed, else one with all in it that is still the same.

    Raises:
        InputChangedError: Something has changed, and that is not accepted.
    """
    old = resumption.directory
    planned = plan_whole(spec, check_cancelled)
    try:
        changes = some(chain(differences(old.facts(), now), _input_changes(old, planned, spec)))
        if not changes:
            return RunSelection(directory=old, lock=lock)
        _refuse(old, () if resumption.accept_changes else changes)
        directory, new_lock = planned_run(spec, now, planned, carry_over_from=old)
    finally:
        discard(planned)
    lock.release()
    return RunSelection(directory=directory, lock=new_lock)


def _input_changes(old: RunDirectory, planned: Path, spec: StepSpec) -> Iterator[str]:
    """Yield how the inputs differ from those of an old plan; one that was never finished is completed where they do not."""
    others = "the input files are others, or are cut into other mini-batches"
    if not old.plan.exists():
        if not _complete(old, planned):
            yield others
    elif (before := Plan.open(old.plan)).summary.sha256 != Plan.open(planned).summary.sha256:
        yield from some(input_differences(before.mini_batches(), spec.datasets)) or [others]


def _complete(directory: RunDirectory, planned: Path) -> bool:
    """Give a run the plan that it never finished; False when that plan does not begin with what has been handed out."""
    with Ledger(directory.ledger) as ledger:
        begun = ledger.planned()
    pairs = zip(planned_in(directory.plan, directory.spool), Plan.open(planned).mini_batches(), strict=False)
    if sum(before == again for before, again in islice(pairs, begun)) < begun:
        return False
    planned.replace(directory.plan)
    discard(planned)
    return True


def _grant(choice: RunSelection, check_cancelled: CheckCancelled) -> RunSelection:
    """Give failed mini-batches a fresh set of tries."""
    if choice.check is not None:
        choice.check.wait(check_cancelled)
    with Ledger(choice.directory.ledger) as ledger:
        granted = ledger.grant()
    choice.directory.receipt.unlink(missing_ok=True)
    return replace(choice, granted=granted)


def _finished(choice: RunSelection, spec: StepSpec, given: frozenset[str], check_cancelled: CheckCancelled) -> RunSelection:
    """Return a run that is finished as one whose result can be returned, or put together again when it is gone."""
    directory = choice.directory
    if not directory.receipt.exists():
        return choice
    if choice.check is not None:
        choice.check.wait(check_cancelled)
    receipt = read_json(directory.receipt)
    if _can_be_isolated(directory, spec):
        directory.receipt.unlink()
        return choice
    if (breach := breach_of(receipt, spec, given)) is not None:
        raise LimitExceededError(*breach, str(directory.path))
    if not is_unaltered(receipt, spec):
        directory.receipt.unlink()
        return choice
    choice.close()
    return RunSelection(directory=directory, lock=None)


def _can_go_on(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for a run that was interrupted; one that was given up goes on only under limits that forgive what failed."""
    with Ledger(directory.ledger) as ledger:
        tally = ledger.tally()
        if not directory.plan.exists():  # more would have come
            tally = replace(tally, all_scheduled=False)
        if spec.config.isolate_failed_items:  # then these are gone on with
            count, items = ledger.isolable()
            tally = replace(tally, failed=tally.failed - count, failed_items=tally.failed_items - items)
        config = Adjustments.of_ledger(ledger).of(spec.config)
        facts = ledger.facts()
        ended_by, is_unfinished = facts.get("ended_by"), tally.finished < tally.planned
        would_end_otherwise = ended_by == LimitExceededError.__name__ or (
            is_unfinished and ended_by != RowsDifferError.__name__
        )
        return failure_limits(config).first_breach(tally) is None and (facts.get("status") != "failed" or would_end_otherwise)


def _can_be_isolated(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for a run that gave mini-batches up whole whose guilty items *spec* wants to be looked for."""
    if not spec.config.isolate_failed_items:
        return False
    with Ledger(directory.ledger) as ledger:
        return ledger.isolable()[0] > 0
