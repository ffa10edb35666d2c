"""Summary of a step as Markdown: outcome, counts, limits, locations. Pure; does not import Prefect."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from prefect_parallel_run._units import count, format_seconds
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.result import ParallelRunResult

_LIMITS = {  #: the field of the result that each is compared with, and its unit
    "error_threshold": ("items_failed", "failed items"),
    "allowed_failed_count": ("mini_batches_failed", "failed mini-batches"),
    "allowed_failed_percent": ("mini_batches_failed", "% failed mini-batches"),
}
_MIN_ACTIVE_SECONDS = 1.0  #: a shorter time gives no meaningful rate
_MAX_CHARACTERS = 1_000  #: of an error message


class Throughput(NamedTuple):
    """The finished work of one execution of a run."""

    seconds: float  #: of the whole execution
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
    """Return how to open a report at a path or URL. Browsers do not follow links from a web page to a local file."""
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
