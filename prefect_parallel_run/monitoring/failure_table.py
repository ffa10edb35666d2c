"""The failures of a run as a table: one row per cause, with its first example. Does not import Prefect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prefect_parallel_run.monitoring.locations import location_of
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.output.failed_items import select_items
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.failures import FailureCause, causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_MAX_CHARACTERS = 300  #: length of an error message
_ALL = -1  #: items of a mini-batch
_Items = tuple[int, int, int]  #: mini-batch, first item, end of items (exclusive) or _ALL


class FailureTable:
    """Builds the rows; caches the input of each example, so that the plan is read once per example."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._inputs: dict[_Items, str] = {}

    def rows(self, ledger: Ledger) -> list[dict[str, Any]]:
        """Return one row per cause, the most frequent first."""
        failures = causes(ledger)
        return [_row(cause, place) for cause, place in zip(failures, self.places(failures), strict=True)]

    def places(self, failures: Sequence[FailureCause]) -> list[str]:
        """Return the input of the first example of each cause: the failing items if known, otherwise the mini-batch.

        It is an empty string while the plan is incomplete.
        """
        wanted = [cause.guilty or (cause.first_mini_batch, 0, _ALL) for cause in failures]
        if (missing := {*wanted} - self._inputs.keys()) and self._run.plan.exists():
            plan = Plan(self._run.plan)
            self._inputs |= {items: _place_in(plan, items) for items in missing}
        return [self._inputs.get(items, "") for items in wanted]


def _place_in(plan: Plan, items: _Items) -> str:
    number, start, stop = items
    work = json.loads(plan.works(number, number + 1)[0])
    return location_of(work if stop == _ALL else select_items(work, start, stop))


def _row(cause: FailureCause, place: str) -> dict[str, Any]:
    return {
        "cause": f"{cause.error_type}: {escape_control_chars(cause.error)[:_MAX_CHARACTERS]}",
        "failed attempts": cause.tries,
        "failed items": cause.failed_items,
        "first input": place,
        "outcome": cause.outcome,
        "mini-batches": cause.mini_batches,
        "items in them": cause.items,
        "first mini-batch": cause.first_mini_batch,
        "nodes": ", ".join(sorted(cause.nodes.split(","))),
    }
