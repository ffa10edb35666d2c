"""Are the files of a run directory what the run wrote? Looked at before anything is made of them. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prefect_parallel_run.errors import RunFileError
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

CheckCancelled = Callable[[], None]


def check(directory: RunDirectory, check_cancelled: CheckCancelled = lambda: None) -> None:
    """Raise RunFileError when run.json, the plan or the ledger is damaged, or they do not belong together.

    Args:
        directory: Of a run that no other process drives.
        check_cancelled: Called now and then; raises to stop.
    """
    check_plan(directory, check_cancelled)
    with Ledger(directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        for reason in ledger_problems(directory, ledger):
            raise RunFileError(str(directory.ledger), reason)


def check_plan(directory: RunDirectory, check_cancelled: CheckCancelled = lambda: None) -> None:
    """Raise RunFileError when run.json or the plan is damaged, or they do not belong together."""
    identity = directory.facts()["identity"]
    if directory.plan.exists():
        reason = Plan.open(directory.plan).problem(identity, check_cancelled)
    else:
        reason = "is not there" if "plan_sha256" in identity else ""
    if reason:
        raise RunFileError(str(directory.plan), reason)


def ledger_problems(directory: RunDirectory, ledger: Ledger, *, is_whole: bool = False) -> Iterator[str]:
    """Yield what is wrong in the ledger of a run.

    Args:
        directory: Of the run; its plan is known to be the right one.
        ledger: Of the run.
        is_whole: It has every mini-batch of the plan; else the last ones may be missing, which planning had just found.
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
        yield "does not have each mini-batch of the plan once, with its items"
