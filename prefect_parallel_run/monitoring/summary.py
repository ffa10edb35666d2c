"""What a step came to, as Markdown for people: outcome, counts, limits, where everything is. Pure; knows nothing of Prefect."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.units import count, format_seconds

_LIMITS = {  #: what each is compared with: a field of the result, and what it counts
    "error_threshold": ("items_failed", "failed items"),
    "allowed_failed_count": ("mini_batches_failed", "failed mini-batches"),
    "allowed_failed_percent": ("mini_batches_failed", "% failed mini-batches"),
}
_SHORTEST = 1.0  #: s at work from which a pace is told
_MOST_CHARACTERS = 1_000  #: of an error's text


class Done(NamedTuple):
    """What has come to its end in one driving of a run."""

    seconds: float  #: that it took
    at_work: float  #: s of these from the first try on, pauses left out
    mini_batches: int
    items: int  #: that succeeded


def summary_of_result(result: ParallelRunResult, done: Done) -> str:
    """Return the summary of a step that has a result; nothing is *done* where that is an earlier one."""
    outcome = "Reused: nothing ran, the result is that of an earlier run" if result.reused else "Succeeded"
    if result.items_failed:
        outcome += f"; {count(result.items_failed, 'item')} failed, which is forgiven"
    rows = [
        ("mini-batches", result.mini_batches_total, result.mini_batches_succeeded, result.mini_batches_failed),
        ("items", result.items_total, result.items_succeeded, result.items_failed),
    ]
    pace = "" if result.reused else _pace(result.seconds, done)
    lines = [f"# {result.name}", f"**{outcome}**", _table(rows), f"{count(result.rows, 'row')}{pace}", *_limits(result)]
    return "\n\n".join([*lines, *_places(result.run_directory, result.output_file or result.output)]) + "\n"


def summary_of_failure(step: str, error: BaseException, tally: Tally, run_directory: str, done: Done) -> str:
    """Return the summary of a run that has no result.

    Args:
        step: Its name.
        error: Why; no Exception when somebody cancelled it.
        tally: Counts at the end.
        run_directory: Path.
        done: This time.
    """
    is_failure = isinstance(error, Exception)
    outcome = "Failed" if is_failure else "Cancelled; what is finished is kept"
    reason = escape_control_chars(f"{type(error).__name__}: {error}")[:_MOST_CHARACTERS].replace(
        "`", "'"
    )  # in a block it is no Markdown
    rows = [
        ("mini-batches", tally.planned, tally.succeeded, tally.failed),
        ("items", tally.items, tally.succeeded_items, tally.failed_items),
    ]
    pace = f"{count(tally.rows, 'row')}{_pace(done.seconds, done)}"
    lines = [f"# {step}", f"**{outcome}**", *([f"```\n{reason}\n```"] if is_failure else []), _table(rows), pace]
    return "\n\n".join([*lines, *_places(run_directory, None)]) + "\n"


def report_text(place: str) -> str:
    """Return how to come by a report at a path or URL. A browser follows no link from a server's page to a file."""
    command = f"prefect-parallel-run report {shlex.quote(place.rpartition('/')[0])} --open"
    link = f"[report.html]({place})" if place.startswith(("http://", "https://")) else f"`{place}`"
    return f"{link}: one file that opens in any browser.\n\n```\n{command}\n```\n"


def _table(rows: list[tuple[str, int, int, int]]) -> str:
    lines = [f"| {name} | {a:,} | {b:,} | {c:,} | {a - b - c:,} |" for name, a, b, c in rows]
    return "\n".join(["| | total | succeeded | failed | not reached |", "|---|---|---|---|---|", *lines])


def _pace(seconds: float, done: Done) -> str:
    words = f" · {format_seconds(seconds)}"
    if not done.mini_batches or done.at_work < _SHORTEST:  # so little says nothing of a pace
        return words
    return f"{words} · {done.mini_batches / done.at_work:,.1f} mini-batches/s · {done.items / done.at_work:,.1f} items/s"


def _limits(result: ParallelRunResult) -> Iterator[str]:
    lines = []
    for name, allowed in result.limits.items():
        field, what = _LIMITS[name]
        actual = getattr(result, field)
        if name == "allowed_failed_percent":
            actual = 100 * actual / max(result.mini_batches_total, 1)
        if allowed is not None:
            lines.append(f"| `{name}` | {allowed:,g} | {actual:,g} {what} |")
    if lines:
        yield "\n".join(["| limit | forgives | there were |", "|---|---|---|", *lines])


def _places(run_directory: str, output: str | None) -> Iterator[str]:
    if output is not None:
        yield f"Result: `{output}`"
    yield f"Run directory: `{run_directory}`"
