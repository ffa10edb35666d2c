"""What the Prefect UI shows of a run: one progress artifact, a table of failures by cause, and a summary at the end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from prefect_parallel_run.failures import causes
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.observe.logs import Logger, neutral
from prefect_parallel_run.observe.progress import done_percent, sentence
from prefect_parallel_run.records import Tally
from prefect_parallel_run.run_directory import RunDirectory
from prefect_parallel_run.units import format_seconds

_EVERY = 2.0  #: s between two updates at least: Prefect's API is rate-limited
_NOTE = "progress_artifact"  # where the ledger keeps the artifact's id, so that a retry goes on with the same card


class RunArtifacts:
    """Keeps the artifacts of one run up to date. A server that does not take them is a warning, never the run's end."""

    def __init__(self, step: str, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._step, self._logger, self._clock = step, logger, clock
        self._key = artifact_key(step)
        self._progress: UUID | None = None
        self._run: RunDirectory | None = None
        self._dashboard = ""
        self._begun = self._next = clock()
        self._begun_with = 0

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """Create the progress artifact, or take up that of an earlier try."""
        self._run, self._begun_with, self._dashboard = run, tally.finished, dashboard
        self._begun = self._next = self._clock()
        with Ledger(run.ledger) as ledger:
            known = ledger.facts().get(_NOTE)
            if known is not None:
                self._progress = UUID(known)
                return
            words = self._describe(tally)
            made = self._tell(
                lambda: create_progress_artifact(done_percent(tally), f"{self._key}-progress", words, _sync=True)  # type: ignore[call-arg]  # async_dispatch takes it
            )
            if isinstance(made, UUID):
                self._progress = made
                ledger.note(**{_NOTE: str(made)})

    def progressed(self, tally: Tally) -> None:
        """Update the progress artifact, every 2 s at most."""
        now = self._clock()
        if self._progress is not None and now >= self._next:
            self._next = now + _EVERY
            self._update(tally)

    def ended(self, ledger: Ledger) -> None:
        """Show the last counts, failures by cause, and a summary."""
        tally = ledger.tally()
        if self._progress is not None:
            self._update(tally)
        failures = [
            {
                "cause": f"{cause.error_type}: {neutral(cause.error)[:300]}",
                "outcome": cause.outcome,
                "failed tries": cause.tries,
                "mini-batches": cause.mini_batches,
                "first mini-batch": cause.first_mini_batch,
                "nodes": cause.nodes,
            }
            for cause in causes(ledger)
        ]
        if failures:
            words = f"Failed tries of {self._step} by cause; tracebacks are in the log and in the ledger."
            self._tell(lambda: create_table_artifact(failures, f"{self._key}-failures", words, _sync=True))  # type: ignore[call-arg]  # the same
        text = self._summary(tally)
        self._tell(lambda: create_markdown_artifact(text, f"{self._key}-summary", f"Summary of {self._step}", _sync=True))  # type: ignore[call-arg]  # the same

    def _update(self, tally: Tally) -> None:
        progress, words = self._progress, self._describe(tally)
        assert progress is not None  # noqa: S101  both callers have looked; for the type checker
        self._tell(lambda: update_progress_artifact(progress, done_percent(tally), words, _sync=True))  # type: ignore[call-arg]  # the same

    def _describe(self, tally: Tally) -> str:
        words = f"{self._step}: {sentence(tally, self._begun_with, self._clock() - self._begun)}"
        return f"{words} · [Dask dashboard]({self._dashboard})" if self._dashboard else words

    def _summary(self, tally: Tally) -> str:
        elapsed = max(self._clock() - self._begun, 1e-9)
        done = tally.finished - self._begun_with
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
            f"{tally.rows} rows · {format_seconds(elapsed)} · {done / elapsed:.1f} mini-batches/s\n\n"
            f"Run directory: `{self._run.path if self._run else ''}`\n"
        )

    def _tell(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except (httpx.HTTPError, PrefectException) as error:
            self._logger.warning("Prefect did not take an artifact: %s", error)
            return None


def artifact_key(step: str) -> str:
    """Return *step* as Prefect wants keys: lower-case letters, digits and dashes.

    >>> artifact_key("Score images_v2")
    'score-images-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step"
