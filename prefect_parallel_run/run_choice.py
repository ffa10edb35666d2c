"""Which run directory a step works in: an unfinished one, a finished one to reuse, one that a person names, or a new one."""

from __future__ import annotations

import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_parallel_run.carry_over import carry_over
from prefect_parallel_run.changes import differences
from prefect_parallel_run.errors import InputChangedError, LimitExceededError
from prefect_parallel_run.identity import digest, listing_sha256
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.output.parts import file_sha256
from prefect_parallel_run.planning import Plan
from prefect_parallel_run.records import Breach, Tally
from prefect_parallel_run.run_directory import RunDirectory, RunLock, read_json, runs_below, write_json
from prefect_parallel_run.spec import StepSpec, failure_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """How a person goes on with a run directory of their choice."""

    directory: RunDirectory
    accept_changes: bool = False  #: keep what is finished although inputs, script or arguments are others now
    retry_failed: bool = False  #: give failed mini-batches a fresh set of tries


def discard(planned: Path) -> None:
    """Remove a plan that is not needed, and its folder, if they are there."""
    shutil.rmtree(planned.parent, ignore_errors=True)


def find_or_make(spec: StepSpec, now: dict[str, Any], planned: Path) -> tuple[RunDirectory, RunLock | None]:
    """Return the run directory to work in, locked; or, without a lock, one whose result can be returned."""
    for found in runs_below(spec.runs, _prefix(spec, now)):
        if found.receipt.exists():
            if spec.allow_reuse and _may_be_reused(read_json(found.receipt), spec):
                discard(planned)
                return found, None
        else:
            lock = found.lock()
            if _can_go_on(found, spec):
                discard(planned)
                return found, lock
            lock.release()
    return _make(spec, now, planned)


def take_up(spec: StepSpec, now: dict[str, Any], planned: Path, resumption: Resumption) -> tuple[RunDirectory, RunLock | None]:
    """Return the run directory that a person wants to go on with, locked; a new one when accepted changes make it another."""
    old = resumption.directory
    lock = old.lock()
    try:
        changes = differences(old.facts(), now, Plan.open(old.plan), Plan.open(planned))
        if changes and not resumption.accept_changes:
            raise InputChangedError(str(old.path), changes)  # noqa: TRY301  what was begun is undone below
        if changes:
            directory, new_lock = _make(spec, now, planned, carry_over_from=old)
            lock.release()
            lock = new_lock
        else:
            discard(planned)
            directory = old
            if old.receipt.exists() and not resumption.retry_failed:
                receipt = read_json(old.receipt)
                if (breach := _breach(receipt, spec)) is not None:
                    raise LimitExceededError(*breach, str(old.path))  # noqa: TRY301  the lock is given back below
                if _is_unaltered(receipt, spec):
                    lock.release()
                    return old, None
                old.receipt.unlink()  # its result is gone or altered: it is put together again
        if resumption.retry_failed:
            with Ledger(directory.ledger) as ledger:
                ledger.grant()
            directory.receipt.unlink(missing_ok=True)
    except BaseException:
        lock.release()
        raise
    return directory, lock


def _prefix(spec: StepSpec, now: dict[str, Any]) -> str:
    return f"{spec.name}-{digest(now['identity'])[:12]}-"


def _make(
    spec: StepSpec, now: dict[str, Any], planned: Path, carry_over_from: RunDirectory | None = None
) -> tuple[RunDirectory, RunLock]:
    """Return a new run directory, locked."""
    begun = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    directory = RunDirectory(spec.runs / f"{_prefix(spec, now)}{begun}-{uuid.uuid4().hex[:6]}")
    directory.make()
    lock = directory.lock()
    planned.replace(directory.plan)
    planned.parent.rmdir()
    plan = Plan.open(directory.plan)
    with Ledger.create(directory.ledger, plan.all_items()) as ledger:
        if carry_over_from is not None:
            carry_over(carry_over_from, directory, plan, ledger)
    write_json(directory.description, _description(spec, now))  # last: a run directory without it was never begun
    return directory, lock


def _can_go_on(directory: RunDirectory, spec: StepSpec) -> bool:
    """True for a run that was interrupted; one that was given up goes on only under limits that forgive what failed."""
    with Ledger(directory.ledger) as ledger:
        tally = ledger.tally()
        return failure_limits(spec.config).first_breach(tally) is None and (
            ledger.facts().get("status") != "failed" or tally.finished < tally.planned
        )


def _may_be_reused(receipt: dict[str, Any], spec: StepSpec) -> bool:
    """True when the result is still there unaltered, and *spec* forgives what failed in it."""
    return _breach(receipt, spec) is None and _is_unaltered(receipt, spec)


def _breach(receipt: dict[str, Any], spec: StepSpec) -> Breach | None:
    """Return the limit of *spec* that a finished run exceeds, or None."""
    tally = Tally(
        planned=receipt["mini_batches"]["total"],
        failed=receipt["mini_batches"]["failed"],
        failed_items=receipt["items"]["failed"],
        all_scheduled=True,
    )
    return failure_limits(spec.config).first_breach(tally)


def _is_unaltered(receipt: dict[str, Any], spec: StepSpec) -> bool:
    """True when the result is there, byte for byte; of a summary_only step, when all files in its output are as they were."""
    if receipt["output_file"] is None:
        return spec.output is None or receipt.get("output_listing") == listing_sha256(spec.output)
    path = Path(receipt["output_file"])
    return path.is_file() and path.stat().st_size == receipt["bytes"] and file_sha256(path) == receipt["sha256"]


def _description(spec: StepSpec, now: dict[str, Any]) -> dict[str, Any]:
    config = spec.config.model_dump(mode="json", exclude={"environment_variables"})
    if spec.config.source_directory is None:
        config["entry_script"] = str(spec.config.script_path)  # whoever goes on with the run may be in another folder
    else:
        config["source_directory"] = str(spec.config.source_path)
    return {
        "step": spec.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **now,
        "config": config,
        "environment_variables": sorted(spec.config.environment_variables),  # names only: the values are secrets
        "inputs": [{"kind": dataset.kind, **dataset.model_dump(mode="json")} for dataset in spec.datasets],
        "output": str(spec.output) if spec.output is not None else None,
        "side_inputs": dict(spec.side_inputs),
        "arguments": list(spec.arguments),
        "home": str(spec.home),
    }
