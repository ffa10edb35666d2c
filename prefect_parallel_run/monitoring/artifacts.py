"""Prefect artifacts of a run: progress, a table of failures by cause, and at the end a summary and the report's location.

A background thread sends them, so that a run never waits for a slow or unreachable server.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple
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

from prefect_parallel_run._units import count, format_seconds
from prefect_parallel_run.models import Outcome, Tally
from prefect_parallel_run.monitoring.failure_table import FailureTable
from prefect_parallel_run.monitoring.logs import Logger, escape_control_chars
from prefect_parallel_run.monitoring.progress import ProgressTracker, done_percent, progress_message
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.events import (
    AttemptFailed,
    ExecutionEnded,
    PieceFinished,
    Progressed,
    ReportWritten,
    RunEvent,
    RunStarted,
    StepEnded,
    StepRaised,
    StepReturned,
)
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_PROGRESS_INTERVAL = 2.0  #: s, the minimum between two updates: Prefect's API is rate-limited
_TABLE_INTERVAL = 30.0  #: s, the minimum between two updates of the table of failures
_PATIENCE = 10.0  #: s to wait until the last updates are sent
_PATIENCE_IF_CANCELLED = 2.0  #: s, after a cancellation: Ctrl-C may have stopped the server too
_TABLE_SHARE = 0.02  #: maximum share of the run time spent on that table: reading a million failures takes a while
_LIMITS = {  #: the field of the result that each is compared with, and its unit
    "error_threshold": ("items_failed", "failed items"),
    "allowed_failed_count": ("mini_batches_failed", "failed mini-batches"),
    "allowed_failed_percent": ("mini_batches_failed", "% failed mini-batches"),
}
_MIN_ACTIVE_SECONDS = 1.0  #: a shorter time gives no meaningful rate
_MAX_CHARACTERS = 1_000  #: length of an error message


class RunArtifacts:
    """Keeps the artifacts of one run up to date.

    An unreachable server causes warnings, and delays the end of the step by up to 10 s.

    Progress and summary are computed on the caller's thread. A background thread computes the table of failures, and sends
    everything. The ledger stores the artifact ids, so that a retry of the task updates the same artifacts; only the background
    thread reads and writes them.
    """

    def __init__(self, step: str, logger: Logger, tracker: ProgressTracker) -> None:
        self._step, self._logger, self._tracker = step, logger, tracker
        self._key = artifact_key(step)
        self._publisher = BackgroundPublisher("artifacts", self._warn)
        self._ids: dict[str, UUID] = {}
        self._run: RunDirectory | None = None
        self._table: FailureTable | None = None
        self._has_new_failures = False  # the table of failures is outdated
        self._dashboard = ""
        self._next = self._next_table = time.monotonic()
        self._last = Tally()
        self._patience = _PATIENCE

    def handle(self, event: RunEvent) -> None:
        """Update the artifacts that *event* changes."""
        match event:
            case RunStarted():
                self._start(event)
            case AttemptFailed():
                self._has_new_failures = True
            case PieceFinished(receipt) if receipt.outcome != Outcome.SUCCEEDED:
                self._has_new_failures = True
            case Progressed(tally):
                self._send_due(tally)
            case ExecutionEnded(tally):
                self._last, self._dashboard = tally, ""  # the dashboard is closed
                self._send_progress(tally)
                self._send_failures()
            case StepReturned(result):
                self._publish("summary", summary_of_result(result, self._throughput()), f"Summary of {self._step}")
            case StepRaised(error):
                if self._run is not None:
                    summary = summary_of_failure(self._step, error, self._last, str(self._run.path), self._throughput())
                    self._publish("summary", summary, f"Summary of {self._step}")
                if not isinstance(error, Exception):
                    self._patience = _PATIENCE_IF_CANCELLED
            case ReportWritten(location):
                self._publish("report", report_text(location), f"Location of the report of {self._step}")
            case StepEnded() if not self._publisher.close(self._patience):
                self._warn(f"not all updates were sent within {self._patience:g} s")

    def _start(self, event: RunStarted) -> None:
        """Create the progress artifact, or reuse that of an earlier execution of the run."""
        self._run, self._last, self._dashboard = event.directory, event.tally, event.dashboard
        self._table = FailureTable(event.directory)
        self._next = self._next_table = time.monotonic()
        begin = partial(self._create_or_reuse, event.directory, done_percent(event.tally), self._describe(event.tally))
        self._publisher.submit("begin", begin)

    def _create_or_reuse(self, run: RunDirectory, percent: float, description: str) -> None:
        with Ledger(run.ledger) as ledger:
            metadata = ledger.metadata()
        self._ids = {kind: UUID(metadata[_id_key(kind)]) for kind in ("progress", "failures") if _id_key(kind) in metadata}
        if "progress" not in self._ids:
            self._create("progress", create_progress_artifact, percent, description)

    def _send_due(self, tally: Tally) -> None:
        """Update the progress artifact at most every 2 s, and the table of failures at most every 30 s."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_INTERVAL
            self._send_progress(tally)
        if self._has_new_failures and now >= self._next_table:
            self._next_table = math.inf  # until the table is sent
            self._send_failures()

    def _throughput(self) -> Throughput:
        """Return what this execution finished, without the work of earlier executions."""
        snapshot, before, now = self._tracker.snapshot(self._last), self._tracker.initial_tally, self._last
        items = now.succeeded_items - before.succeeded_items
        return Throughput(snapshot.elapsed, snapshot.active_seconds, snapshot.done, items)

    def _publish(self, kind: str, text: str, description: str) -> None:
        self._publisher.submit(kind, lambda: self._call(create_markdown_artifact, text, f"{self._key}-{kind}", description))

    def _send_progress(self, tally: Tally) -> None:
        percent, description = done_percent(tally), self._describe(tally)

        def update() -> None:
            if (progress := self._ids.get("progress")) is not None:
                self._call(update_progress_artifact, progress, percent, description)

        self._publisher.submit("progress", update)

    def _send_failures(self) -> None:
        self._has_new_failures = False
        self._publisher.submit("failures", self._update_failures)

    def _update_failures(self) -> None:
        started = time.monotonic()
        try:
            if self._run is not None and self._table is not None and self._run.ledger.exists():
                with Ledger(self._run.ledger) as ledger:
                    rows = self._table.rows(ledger)
                if rows and (table := self._ids.get("failures")) is not None:
                    self._call(_update_table, table, rows)
                elif rows:
                    description = f"Failed attempts of {self._step} by cause; tracebacks are in the log and in the ledger."
                    self._create("failures", create_table_artifact, rows, description)
        finally:
            now = time.monotonic()
            self._next_table = now + max(_TABLE_INTERVAL, (now - started) / _TABLE_SHARE)

    def _create(self, kind: str, create: Callable[..., object], data: object, description: str) -> None:
        artifact_id = self._call(create, data, f"{self._key}-{kind}", description)
        if isinstance(artifact_id, UUID) and self._run is not None:
            self._ids[kind] = artifact_id
            with Ledger(self._run.ledger) as ledger:
                ledger.record(**{_id_key(kind): str(artifact_id)})

    def _describe(self, tally: Tally) -> str:
        description = f"{self._step}: {progress_message(self._tracker.snapshot(tally))}"
        return f"{description} · [Dask dashboard]({self._dashboard})" if self._dashboard else description

    def _call(self, function: Callable[..., object], *arguments: object) -> object:
        """Call a function of Prefect; without ``_sync`` it would return a coroutine if the flow is asynchronous."""
        try:
            return function(*arguments, _sync=True)
        except (httpx.HTTPError, PrefectException) as error:
            self._warn(str(error))
            return None

    def _warn(self, message: str) -> None:
        self._logger.warning("cannot update a Prefect artifact: %s", message, extra={"action": "warning"})


def _id_key(kind: str) -> str:
    """Return the ledger's metadata key for the id of an artifact."""
    return f"{kind}_artifact"


def _update_table(artifact: UUID, rows: list[dict[str, Any]], *, _sync: bool) -> None:
    client = get_client(sync_client=True)  # shared with the run; not entered: its reference count is not thread-safe
    client.update_artifact(artifact, ArtifactUpdate(data=json.dumps(rows)))


def artifact_key(step: str) -> str:
    """Return *step* as an artifact key, which Prefect limits to lowercase letters, digits and dashes.

    >>> artifact_key("Score images_v2")
    'score-images-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", step.lower()).strip("-") or "step"


class Throughput(NamedTuple):
    """The finished work of one execution of a run."""

    seconds: float  #: duration of the whole execution
    active_seconds: float  #: since the first attempt, without pauses
    mini_batches: int
    items: int  #: that succeeded


def summary_of_result(result: ParallelRunResult, throughput: Throughput) -> str:
    """Return the summary of a step with a result; *throughput* is empty for a reused result."""
    outcome = "Reused: this is the result of an earlier run; nothing ran" if result.reused else "Succeeded"
    if result.items_failed:
        outcome += f"; {count(result.items_failed, 'item')} failed, within the limits"
    rows = [
        ("mini-batches", result.mini_batches_total, result.mini_batches_succeeded, result.mini_batches_failed),
        ("items", result.items_total, result.items_succeeded, result.items_failed),
    ]
    rate = "" if result.reused else _rate(result.seconds, throughput)
    lines = [f"# {result.name}", f"**{outcome}**", _table(rows), f"{count(result.rows, 'row')}{rate}", *_limits(result)]
    return "\n\n".join([*lines, *_locations(result.run_directory, result.output_file or result.output)]) + "\n"


def summary_of_failure(step: str, error: BaseException, tally: Tally, run_directory: str, throughput: Throughput) -> str:
    """Return the summary of a run without a result.

    Args:
        step: Name of the step.
        error: The reason; not an Exception if the run was cancelled.
        tally: Final counts.
        run_directory: Path.
        throughput: Work of this execution.
    """
    is_failure = isinstance(error, Exception)
    outcome = "Failed" if is_failure else "Cancelled; finished mini-batches are kept"
    reason = escape_control_chars(f"{type(error).__name__}: {error}")[:_MAX_CHARACTERS]
    reason = reason.replace("`", "'")  # a backtick would end the code block
    rows = [
        ("mini-batches", tally.planned, tally.succeeded, tally.failed),
        ("items", tally.items, tally.succeeded_items, tally.failed_items),
    ]
    rows_and_rate = f"{count(tally.rows, 'row')}{_rate(throughput.seconds, throughput)}"
    lines = [f"# {step}", f"**{outcome}**", *([f"```\n{reason}\n```"] if is_failure else []), _table(rows), rows_and_rate]
    return "\n\n".join([*lines, *_locations(run_directory, None)]) + "\n"


def report_text(location: str) -> str:
    """Return text that says how to open a report; browsers do not follow links from a web page to a local file."""
    command = f"prefect-parallel-run report {shlex.quote(location.rpartition('/')[0])} --open"
    link = f"[report.html]({location})" if location.startswith(("http://", "https://")) else f"`{location}`"
    return f"{link}: one file that opens in any browser.\n\n```\n{command}\n```\n"


def _table(rows: list[tuple[str, int, int, int]]) -> str:
    lines = [f"| {name} | {a:,} | {b:,} | {c:,} | {a - b - c:,} |" for name, a, b, c in rows]
    return "\n".join(["| | total | succeeded | failed | not reached |", "|---|---|---|---|---|", *lines])


def _rate(seconds: float, throughput: Throughput) -> str:
    duration, active = f" · {format_seconds(seconds)}", throughput.active_seconds
    if not throughput.mini_batches or active < _MIN_ACTIVE_SECONDS:  # too little for a rate
        return duration
    return f"{duration} · {throughput.mini_batches / active:,.1f} mini-batches/s · {throughput.items / active:,.1f} items/s"


def _limits(result: ParallelRunResult) -> Iterator[str]:
    lines = []
    for name, allowed in result.limits.items():
        field, unit = _LIMITS[name]
        actual = getattr(result, field)
        if name == "allowed_failed_percent":
            actual = 100 * actual / max(result.mini_batches_total, 1)
        if allowed is not None:
            lines.append(f"| `{name}` | {allowed:,g} | {actual:,g} {unit} |")
    if lines:
        yield "\n".join(["| limit | allowed | actual |", "|---|---|---|", *lines])


def _locations(run_directory: str, output: str | None) -> Iterator[str]:
    if output is not None:
        yield f"Result: `{output}`"
    yield f"Run directory: `{run_directory}`"


class BackgroundPublisher:
    """Runs calls one after another, in order of submission; a newer call of the same kind replaces a waiting one.

    Args:
        name: Name of the thread; it inherits the context variables of the caller.
        warned: Called on that thread with an error message; a failed call never fails the run.
    """

    def __init__(self, name: str, warned: Callable[[str], None]) -> None:
        self._name, self._warned = name, warned
        self._context = copy_context()
        self._waiting: dict[str, Callable[[], object]] = {}  # by kind
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_abandoned = False

    def submit(self, kind: str, call: Callable[[], object]) -> None:
        """Queue *call*, in place of a waiting one of the same kind; returns immediately."""
        with self._changed:
            if self._is_closed:
                return
            self._waiting[kind] = call
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._run,), name=self._name, daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> bool:
        """Wait at most *seconds* for the queued calls; returns False if some were abandoned."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        with self._changed:
            self._is_abandoned = self._thread.is_alive()
            self._waiting.clear()
        return not self._is_abandoned

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  any error becomes a warning; abandoned calls fail silently
                if not self._is_abandoned:
                    self._warned(f"{type(error).__name__}: {error}")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))
