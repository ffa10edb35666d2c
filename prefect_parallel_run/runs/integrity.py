"""Checks that the files of a run directory are undamaged, before anything reads results from them. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.errors import RunFileError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def check(directory: RunDirectory, check_cancelled: CheckCancelled = never_cancelled) -> None:
    """Raise RunFileError when run.json, the plan or the ledger is damaged, or they do not match each other.

    Args:
        directory: Run directory that no other process has locked.
        check_cancelled: Called periodically; raises when the run is cancelled.
    """
    check_plan(directory, check_cancelled)
    with Ledger(directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        for reason in ledger_problems(directory, ledger):
            raise RunFileError(str(directory.ledger), reason)


def check_plan(directory: RunDirectory, check_cancelled: CheckCancelled = never_cancelled) -> None:
    """Raise RunFileError when run.json or the plan is damaged, or they do not match."""
    identity = directory.facts()["identity"]
    if directory.plan.exists():
        reason = Plan.open(directory.plan).problem(identity, check_cancelled)
    else:
        reason = "does not exist" if "plan_sha256" in identity else ""
    if reason:
        raise RunFileError(str(directory.plan), reason)


def ledger_problems(directory: RunDirectory, ledger: Ledger, *, is_whole: bool = False) -> Iterator[str]:
    """Yield the problems in the ledger of a run.

    Args:
        directory: The run directory; its plan has been checked.
        ledger: The ledger in it.
        is_whole: The ledger must have every mini-batch of the plan; else the last ones, planned just before, may be missing.
    """
    is_readable = True
    for reason in ledger.problems():
        yield reason
        is_readable = False
    if not is_readable or not directory.plan.exists():
        return
    planned = Plan.open(directory.plan).all_items()
    in_ledger = (items for (items,) in ledger.rows("SELECT items FROM mini_batches ORDER BY mini_batch"))
    if any(items != next(planned, None) for items in in_ledger) or (is_whole and next(planned, None) is not None):
        yield "its mini-batches differ from those of the plan"
