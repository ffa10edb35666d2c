"""What the Prefect UI shows of a run: progress, a table of failures by cause, and at the end a summary and the report."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.observe.course import Course
from prefect_parallel_run.observe.failure_table import FailureTable
from prefect_parallel_run.observe.logs import Logger
from prefect_parallel_run.observe.progress import done_percent, sentence
from prefect_parallel_run.records import Tally
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.units import format_seconds

_EVERY = 2.0  #: s between two updates of the progress at least: Prefect's API is rate-limited
_TABLE_EVERY = 30.0  #: s between two updates of the table of failures at least
_TABLE_SHARE = 0.02  #: of the time may be spent on it: a ledger with a million failures is not read in no time


class RunArtifacts:
    """Keeps the artifacts of one run up to date. A server that does not take them is a warning, never the run's end.

    Their ids are kept in the ledger, so that a retry goes on with the same cards.
    """

    def __init__(self, step: str, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._step, self._logger, self._clock = step, logger, clock
        self._key = artifact_key(step)
        self._ids: dict[str, UUID] = {}
        self._run: RunDirectory | None = None
        self._table: FailureTable | None = None
        self._has_new_failures = False
        self._dashboard = ""
        self._next = self._next_table = clock()
        self._course = Course(Tally(), clock)

    def began(self, run: RunDirectory, tally: Tally, dashboard: str, course: Course) -> None:
        """Create the progress artifact, or take up that of an earlier try."""
        self._run, self._dashboard, self._course = run, dashboard, course
        self._table = FailureTable(run)
        self._next = self._next_table = self._clock()
        with Ledger(run.ledger) as ledger:
            facts = ledger.facts()
            self._ids = {kind: UUID(facts[_note(kind)]) for kind in ("progress", "failures") if _note(kind) in facts}
            if "progress" not in self._ids:
                self._make("progress", ledger, partial(_create_progress, done_percent(tally), self._describe(tally)))

    def tried(self) -> None:
        """Note that a try failed: the table of failures is no longer true."""
        self._has_new_failures = True

    def progressed(self, tally: Tally) -> None:
        """Update the progress artifact, every 2 s at most, and the table of failures, every 30 s at most."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            self._show_progress(tally, self._describe(tally))
        if self._has_new_failures and now >= self._next_table and self._run is not None:
            with Ledger(self._run.ledger) as ledger:
                self._show_failures(ledger)
            took = self._clock() - now
            self._next_table = now + max(_TABLE_EVERY, took / _TABLE_SHARE)

    def ended(self, ledger: Ledger) -> None:
        """Show the last counts, failures by cause, and a summary; the dashboard is gone, and so is its link."""
        tally = ledger.tally()
        self._dashboard = ""
        self._show_progress(tally, self._describe(tally))
        self._show_failures(ledger)
        text = self._summary(tally)
        self._tell(lambda: create_markdown_artifact(text, f"{self._key}-summary", f"Summary of {self._step}", _sync=True))  # type: ignore[call-arg]  # the same

    def reported(self, place: str) -> None:
        """Show where the report of the run is, once it is written; *place* is a path or URL."""
        link = place if is_remote(place) else Path(place).as_uri()
        words = f"Report of {self._step}: one file that opens in any browser, `{place}`"
        self._tell(lambda: create_link_artifact(link, "report.html", f"{self._key}-report", words, _sync=True))  # type: ignore[call-arg]  # the same

    def _show_progress(self, tally: Tally, words: str) -> None:
        if (progress := self._ids.get("progress")) is not None:
            self._tell(lambda: update_progress_artifact(progress, done_percent(tally), words, _sync=True))  # type: ignore[call-arg]  # the same

    def _show_failures(self, ledger: Ledger) -> None:
        self._has_new_failures = False
        rows = self._table.rows(ledger) if self._table is not None else []
        if not rows:
            return
        if (table := self._ids.get("failures")) is None:
            words = f"Failed tries of {self._step} by cause; tracebacks are in the log and in the ledger."
            self._make("failures", ledger, lambda key: create_table_artifact(rows, key, words, _sync=True))  # type: ignore[call-arg]  # the same
        else:
            self._tell(lambda: _update_table(table, rows))

    def _make(self, kind: str, ledger: Ledger, create: Callable[[str], object]) -> None:
        made = self._tell(lambda: create(f"{self._key}-{kind}"))
        if isinstance(made, UUID):
            self._ids[kind] = made
            ledger.note(**{_note(kind): str(made)})

    def _describe(self, tally: Tally) -> str:
        words = f"{self._step}: {sentence(self._course.going(tally))}"
        return f"{words} · [Dask dashboard]({self._dashboard})" if self._dashboard else words

    def _summary(self, tally: Tally) -> str:
        going, before = self._course.going(tally), self._course.begun_with
        at_work = max(going.at_work, 1e-9)
        items = tally.succeeded_items + tally.failed_items - before.succeeded_items - before.failed_items
        rows = [
            ("mini-batches", tally.planned, tally.succeeded, tally.failed, tally.planned - tally.finished),
            (
                "items",
                tally.items,
                tally.succeeded_items,
                tally.failed_items,
                tally.items - tally.succeeded_items - tally.failed_items,
            ),
        ]
        table = "\n".join(f"| {name} | {a} | {b} | {c} | {d} |" for name, a, b, c, d in rows)
        return (
            f"# {self._step}\n\n| | total | succeeded | failed | not reached |\n|---|---|---|---|---|\n{table}\n\n"
            f"{tally.rows} rows · {format_seconds(going.elapsed)} · {going.done / at_work:.1f} mini-batches/s ·"
            f" {items / at_work:.1f} items/s\n\n"
            f"Run directory: `{self._run.path if self._run else ''}`\n"
        )

    def _tell(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except (httpx.HTTPError, PrefectException) as error:
            self._logger.warning("Prefect did not take an artifact: %s", error)
            return None


def _note(kind: str) -> str:
    """Return where the ledger keeps an artifact's id."""
    return f"{kind}_artifact"


def _create_progress(percent: float, words: str, key: str) -> object:
    return create_progress_artifact(percent, key, words, _sync=True)  # type: ignore[call-arg]  # async_dispatch takes it


def _update_table(artifact: UUID, rows: list[dict[str, Any]]) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=json.dumps(rows)))


def artifact_key(step: str) -> str:
    """Return *step* as Prefect wants keys: lower-case letters, digits and dashes.

    >>> artifact_key("Score images_v2")
    'score-images-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step"
