"""The failures of a run as a table for people: one row per cause, with its first example. Knows nothing of Prefect."""

from __future__ import annotations

import json
from typing import Any

from prefect_parallel_run.child.row_groups import GROUPS
from prefect_parallel_run.observe.logs import neutral
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.runs.failures import Cause, causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_MOST_CHARACTERS = 300  #: of an error's text


class FailureTable:
    """Makes the rows; remembers which files a mini-batch has, so that the plan is read once for each cause."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._places: dict[int, str] = {}

    def rows(self, ledger: Ledger) -> list[dict[str, Any]]:
        """Return a row per cause, the most frequent first."""
        found = causes(ledger)
        self._look_up({cause.first_mini_batch for cause in found} - self._places.keys())
        return [self._row(cause) for cause in found]

    def _row(self, cause: Cause) -> dict[str, Any]:
        return {
            "cause": f"{cause.error_type}: {neutral(cause.error)[:_MOST_CHARACTERS]}",
            "its input": self._places.get(cause.first_mini_batch, ""),
            "outcome": cause.outcome,
            "failed tries": cause.tries,
            "mini-batches": cause.mini_batches,
            "items in them": cause.items,
            "first mini-batch": cause.first_mini_batch,
            "nodes": ", ".join(sorted(cause.nodes.split(","))),
        }

    def _look_up(self, mini_batches: set[int]) -> None:
        if not mini_batches or not self._run.plan.exists():  # while the input is being listed there is none
            return
        plan = Plan.open(self._run.plan)
        self._places |= {number: neutral(place_of(json.loads(plan.works(number, number + 1)[0]))) for number in mini_batches}


def place_of(work: dict[str, Any]) -> str:
    """Return where the items of a mini-batch are, as one line.

    >>> place_of({"kind": "files", "root": "/data/", "names": ["a.png", "b.png"]})
    '/data/a.png and 1 more'
    >>> place_of({"kind": "delimited", "path": "/t.csv", "first": 200, "rows": 100})
    '/t.csv, rows 200 to 299'
    >>> place_of({"kind": "parquet", "path": "/t.parquet", "row_groups": [2, 3], "start": 0, "stop": 10, "rows": 10})
    '/t.parquet, rows 0 to 9 from row group 2'
    """
    if work["kind"] == "files":
        return _first([work["root"] + name for name in work["names"]])
    if work["kind"] == "tables":
        return _first(sorted({table["path"] for table in work["tables"]}))
    if work["kind"] in GROUPS:
        group = GROUPS[work["kind"]]
        unit = {"batches": "batch"}.get(group, group[:-1].replace("_", " "))
        return f"{work['path']}, rows {work['start']} to {work['stop'] - 1} from {unit} {work[group][0]}"
    return f"{work['path']}, rows {work['first']} to {work['first'] + work['rows'] - 1}"


def _first(paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}" if paths else ""
