"""What the Prefect UI shows of a run: progress, a table of failures by cause, and at the end a summary and the report."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.background_publisher import BackgroundPublisher
from prefect_parallel_run.monitoring.failure_table import FailureTable
from prefect_parallel_run.monitoring.logs import Logger
from prefect_parallel_run.monitoring.progress import done_percent, sentence
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.monitoring.summary import Done, report_text, summary_of_failure, summary_of_result
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_EVERY = 2.0  #: s between two updates of the progress at least: Prefect's API is rate-limited
_TABLE_EVERY = 30.0  #: s between two updates of the table of failures at least
_TABLE_SHARE = 0.02  #: of the time may be spent on it: a ledger with a million failures is not read in no time


class RunArtifacts:
    """Keeps the artifacts of one run up to date. A server that does not take them is a warning, and holds nobody up.

    What is told is worked out here and sent aside. The ids of artifacts are kept in the ledger, so that a retry goes on with
    the same cards; they, and the ledger for them, are touched aside only.
    """

    def __init__(self, step: str, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._step, self._logger, self._clock = step, logger, clock
        self._key = artifact_key(step)
        self._aside = BackgroundPublisher("artifacts", self._warn)
        self._ids: dict[str, UUID] = {}
        self._run: RunDirectory | None = None
        self._table: FailureTable | None = None
        self._has_new_failures = False
        self._dashboard = ""
        self._next = self._next_table = clock()
        self._course, self._last = ProgressTracker(Tally(), clock), Tally()

    def began(self, run: RunDirectory, tally: Tally, dashboard: str, course: ProgressTracker) -> None:
        """Create the progress artifact, or take up that of an earlier try."""
        self._run, self._dashboard, self._course, self._last = run, dashboard, course, tally
        self._table = FailureTable(run)
        self._next = self._next_table = self._clock()
        self._aside.do("begin", partial(self._take_up, run, done_percent(tally), self._describe(tally)))

    def _take_up(self, run: RunDirectory, percent: float, words: str) -> None:
        with Ledger(run.ledger) as ledger:
            facts = ledger.facts()
        self._ids = {kind: UUID(facts[_note(kind)]) for kind in ("progress", "failures") if _note(kind) in facts}
        if "progress" not in self._ids:
            self._make("progress", partial(_create_progress, percent, words))

    def tried(self) -> None:
        """Note that a try failed: the table of failures is no longer true."""
        self._has_new_failures = True

    def progressed(self, tally: Tally) -> None:
        """Update the progress artifact, every 2 s at most, and the table of failures, every 30 s at most."""
        now = self._clock()
        if now >= self._next:
            self._next = now + _EVERY
            self._show_progress(tally)
        if self._has_new_failures and now >= self._next_table:
            self._next_table = math.inf  # until it is shown
            self._show_failures()

    def ended(self, ledger: Ledger) -> None:
        """Show the last counts, and failures by cause; the dashboard is gone, and so is its link."""
        self._last = ledger.tally()
        self._dashboard = ""
        self._show_progress(self._last)
        self._show_failures()

    def returned(self, result: ParallelRunResult) -> None:
        """Show a summary of a step that has a result, one of an earlier run too."""
        self._summarise(summary_of_result(result, self._done()))

    def raised(self, error: BaseException) -> None:
        """Show a summary of a run that has none."""
        if self._run is not None:
            self._summarise(summary_of_failure(self._step, error, self._last, str(self._run.path), self._done()))

    def _done(self) -> Done:
        """Return what has come to its end since the run was begun or gone on with."""
        going, before, now = self._course.going(self._last), self._course.begun_with, self._last
        return Done(going.elapsed, going.at_work, going.done, now.succeeded_items - before.succeeded_items)

    def reported(self, place: str) -> None:
        """Show where the report of the run is, once it is written; *place* is a path or URL."""
        self._show("report", report_text(place), f"Where the report of {self._step} is")

    def _summarise(self, text: str) -> None:
        self._show("summary", text, f"Summary of {self._step}")

    def _show(self, kind: str, text: str, words: str) -> None:
        self._aside.do(kind, lambda: self._tell(partial(_create_markdown, text, f"{self._key}-{kind}", words)))

    def finish(self, seconds: float) -> None:
        """Wait until all has been sent, *seconds* at most."""
        if not self._aside.end(seconds):
            self._warn(f"not all of them within {seconds:g} s")

    def _show_progress(self, tally: Tally) -> None:
        percent, words = done_percent(tally), self._describe(tally)

        def show() -> None:
            if (progress := self._ids.get("progress")) is not None:
                self._tell(partial(_update_progress, progress, percent, words))

        self._aside.do("progress", show)

    def _show_failures(self) -> None:
        self._has_new_failures = False
        self._aside.do("failures", self._send_failures)

    def _send_failures(self) -> None:
        began = self._clock()
        if self._run is not None and self._table is not None and self._run.ledger.exists():
            with Ledger(self._run.ledger) as ledger:
                rows = self._table.rows(ledger)
            if rows and (table := self._ids.get("failures")) is not None:
                self._tell(partial(_update_table, table, rows))
            elif rows:
                words = f"Failed tries of {self._step} by cause; tracebacks are in the log and in the ledger."
                self._make("failures", partial(_create_table, rows, words))
        now = self._clock()
        self._next_table = now + max(_TABLE_EVERY, (now - began) / _TABLE_SHARE)

    def _make(self, kind: str, create: Callable[[str], object]) -> None:
        made = self._tell(lambda: create(f"{self._key}-{kind}"))
        if isinstance(made, UUID) and self._run is not None:
            self._ids[kind] = made
            with Ledger(self._run.ledger) as ledger:
                ledger.note(**{_note(kind): str(made)})

    def _describe(self, tally: Tally) -> str:
        words = f"{self._step}: {sentence(self._course.going(tally))}"
        return f"{words} · [Dask dashboard]({self._dashboard})" if self._dashboard else words

    def _tell(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except (httpx.HTTPError, PrefectException) as error:
            self._warn(str(error))
            return None

    def _warn(self, words: str) -> None:
        self._logger.warning("Prefect did not take an artifact: %s", words, extra={"action": "warning"})


def _note(kind: str) -> str:
    """Return where the ledger keeps an artifact's id."""
    return f"{kind}_artifact"


# Prefect's async_dispatch takes _sync, which its types do not know: without it a call inside an event loop is a coroutine.


def _create_progress(percent: float, words: str, key: str) -> object:
    return create_progress_artifact(percent, key, words, _sync=True)  # type: ignore[call-arg]  # as above


def _update_progress(progress: UUID, percent: float, words: str) -> object:
    return update_progress_artifact(progress, percent, words, _sync=True)  # type: ignore[call-arg]  # as above


def _create_table(rows: list[dict[str, Any]], words: str, key: str) -> object:
    return create_table_artifact(rows, key, words, _sync=True)  # type: ignore[call-arg]  # as above


def _create_markdown(text: str, key: str, words: str) -> object:
    return create_markdown_artifact(text, key, words, _sync=True)  # type: ignore[call-arg]  # as above


def _update_table(artifact: UUID, rows: list[dict[str, Any]]) -> None:
    client = get_client(sync_client=True)  # the run's own; not entered: its count of who has is not for two threads
    client.update_artifact(artifact, ArtifactUpdate(data=json.dumps(rows)))


def artifact_key(step: str) -> str:
    """Return *step* as Prefect wants keys: lower-case letters, digits and dashes.

    >>> artifact_key("Score images_v2")
    'score-images-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step"
