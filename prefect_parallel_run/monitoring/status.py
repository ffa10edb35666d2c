"""The status of a run from its ledger: state, counts, rate, nodes, failures by cause; for programs and for people.

Read-only, also during the run.
"""

from __future__ import annotations

import os
import shlex
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prefect_parallel_run._units import FAILED_ATTEMPTS, MINI_BATCHES, count, format_seconds
from prefect_parallel_run.errors import RowsDifferError
from prefect_parallel_run.models import FailureLimits, Tally
from prefect_parallel_run.monitoring.logs import escape_control_chars
from prefect_parallel_run.monitoring.progress import Forecast, ProgressSnapshot, describe_failures, done_percent, format_percent
from prefect_parallel_run.monitoring.terminal import clipped, percent_bar
from prefect_parallel_run.runs.executions import effective_config, recorded_executions
from prefect_parallel_run.runs.failures import FailureCause, causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory

_RATE_WINDOW = 60.0  #: s over which the rate is measured
_MIN_RATE_SECONDS = 1.0  #: a shorter time gives no meaningful rate
_MAX_CAUSES = 5
_MAX_NODES = 6
_BAR = 40  #: columns
_MIN_TEXT = 10  #: columns
_MAX_ROWS = 2  #: rows of a wrapped line


class NodeProgress(NamedTuple):
    """The attempts of one node."""

    node: str
    tries: int
    succeeded: int
    last: float  #: Unix time of its latest result, s


class RunEnd(NamedTuple):
    """How a run ended without success; empty otherwise."""

    reason: str = ""
    error_type: str = ""  #: the class of the error
    limit: str = ""  #: configuration field of the exceeded limit


class Activity(NamedTuple):
    """The activity of a run so far, and its forecast."""

    executions: int
    began: float | None  #: Unix time of the first attempt, s
    last: float | None  #: Unix time of the latest result, s
    rate: float | None  #: mini-batches per second that succeeded recently; None unless a process executes the run
    forecast: Forecast  #: empty unless a process executes the run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The status of a run at one moment."""

    directory: RunDirectory
    status: str  #: planned, running, paused, succeeded, failed, cancelled, interrupted
    end: RunEnd
    owner: Mapping[str, Any] | None  #: pid and host of the process that executes the run
    tally: Tally
    activity: Activity
    nodes: tuple[NodeProgress, ...]
    causes: tuple[FailureCause, ...]  #: the most frequent


def read_status(directory: RunDirectory, now: float, owner: Mapping[str, Any] | None = None) -> RunStatus:
    """Return the status of the run in *directory*.

    Args:
        directory: The run directory.
        now: Unix time, s.
        owner: Process on another machine that executes the run, if known.
    """
    owner = directory.owner() or owner
    with Ledger(directory.ledger) as ledger:
        metadata, tally = ledger.metadata(), ledger.tally()
        since = max(now - _RATE_WINDOW, _active_since(metadata))
        nodes = [_NodeRow(*row) for row in ledger.rows(_NODES, since, since, since)]
        failures = tuple(causes(ledger, _MAX_CAUSES))
    status = status_of(metadata, has_owner=owner is not None)
    is_growing = owner is not None and not directory.plan.exists()
    tally = replace(tally, is_growing=is_growing, all_scheduled=tally.all_scheduled and not is_growing)
    config = effective_config(metadata, directory.metadata().get("config", {}) if directory.description.exists() else {})
    rate, began = (
        _rate(nodes, now, _active_since(metadata)),
        min((node.began for node in nodes if node.began is not None), default=None),
    )
    snapshot = ProgressSnapshot(  # the process that executes the run uses the same counts and limits
        tally=tally,
        elapsed=now - (began or now),
        active_seconds=now - (began or now),
        done=int(sum(node.succeeded for node in nodes)),
        slots=sum(node.recent_processes for node in nodes),
        held=FailureLimits.of(config).near_breach(tally, isolates=bool(config.get("isolate_failed_items"))),
        is_paused=status == "paused",
    )
    is_active = status in ("running", "paused")
    return RunStatus(
        directory=directory,
        status=status,
        end=RunEnd() if is_active else _end(metadata, config, tally),
        owner=owner,
        tally=tally,
        activity=Activity(
            executions=int(metadata.get("drives", "0")),
            began=began,
            last=max((node.last for node in nodes if node.last is not None), default=None),
            rate=rate if owner is not None else None,
            forecast=snapshot.forecast_at(rate) if is_active else Forecast(),
        ),
        nodes=tuple(NodeProgress(node.name or "?", node.tries, int(node.succeeded), node.last or 0.0) for node in nodes),
        causes=failures,
    )


class _NodeRow(NamedTuple):
    """The attempts of one node in the ledger; times are Unix times, s."""

    name: str | None
    tries: int
    succeeded: float
    began: float | None
    last: float | None  #: its latest result
    recent: float  #: mini-batches that succeeded recently
    recent_since: float | None  #: start of the first of these attempts
    recent_processes: int  #: processes with a recent result


_NODES = (
    "SELECT node, COUNT(*), TOTAL(is_done), MIN(started), MAX(ended), TOTAL(is_done AND ended > ?),"
    " MIN(CASE WHEN ended > ? THEN started END), COUNT(DISTINCT CASE WHEN ended > ? THEN pid END) FROM ("
    " SELECT node, pid, started, started + seconds AS ended, outcome = 'succeeded' AS is_done FROM attempts"
    " UNION ALL SELECT node, pid, started, started + seconds, 0 FROM pieces)"  # an attempt at a piece finishes no mini-batch
    " GROUP BY node ORDER BY LENGTH(node), node"
)


def _active_since(metadata: Mapping[str, str]) -> float:
    """Return the Unix time of the latest start of an execution or end of a pause; 0 if unknown."""
    executions = recorded_executions(metadata)
    return max(executions[-1].began if executions else 0.0, float(metadata.get("continued", 0.0)))


def _rate(nodes: list[_NodeRow], now: float, active_since: float) -> float:
    """Return how many mini-batches per second succeeded recently."""
    starts = [node.recent_since for node in nodes if node.recent_since is not None]
    seconds = now - max(min(starts, default=now), active_since)
    return sum(node.recent for node in nodes) / max(seconds, _MIN_RATE_SECONDS) if starts else 0.0


def _end(metadata: Mapping[str, str], config: Mapping[str, Any], tally: Tally) -> RunEnd:
    """Return how a run ended. All its mini-batches count as scheduled, because the ledger does not record whether they were."""
    breach = FailureLimits.of(config).first_breach(replace(tally, all_scheduled=True))
    limit = breach.limit if breach is not None and metadata.get("status") == "failed" else ""
    return RunEnd(metadata.get("reason", ""), metadata.get("ended_by", ""), limit)


def status_of(metadata: Mapping[str, str], *, has_owner: bool) -> str:
    """Return the state of a run from the metadata in its ledger and whether a process executes it.

    >>> status_of({"status": "running"}, has_owner=False), status_of({"status": "cancelled"}, has_owner=False)
    ('interrupted', 'cancelled')
    >>> status_of({"status": "running", "paused": "true"}, has_owner=True)
    'paused'
    """
    status = metadata.get("status", "planned")
    if has_owner and status in ("running", "paused"):
        return "paused" if status == "paused" or metadata.get("paused", "").lower() in ("1", "true", "yes") else "running"
    return "interrupted" if status in ("running", "paused") else status


def as_plain(status: RunStatus) -> dict[str, Any]:
    """Return *status* for JSON; the keys are documented."""
    tally = status.tally
    return {
        "run": status.directory.run_id,
        "run_directory": os.fspath(status.directory.path),
        "status": status.status,
        "reason": status.end.reason,
        "driver": dict(status.owner) if status.owner is not None else None,
        **tally.by_outcome(),
        "waiting": tally.waiting,
        "is_growing": tally.is_growing,
        "drives": status.activity.executions,
        "began": status.activity.began,
        "last": status.activity.last,
        "rate": status.activity.rate,
        "remaining_seconds": status.activity.forecast.remaining,
        "waits_for": status.activity.forecast.waits_for,
        "held": status.activity.forecast.held._asdict() if status.activity.forecast.held is not None else None,
        "nodes": [share._asdict() for share in status.nodes],
        "causes": [cause._asdict() for cause in status.causes],
    }


def status_lines(status: RunStatus, now: float, width: int | None = None, *, ascii_only: bool = False) -> list[str]:
    """Return the status as lines, each at most *width* columns wide.

    Args:
        status: Status to show.
        now: Unix time, s.
        width: Columns; None for no limit and no bar.
        ascii_only: The terminal shows no other characters.
    """
    has_bar = width is not None and not status.tally.is_growing
    lines = [line for line in _lines(status, now, has_bar=has_bar) if line]
    if width is None:
        return lines
    rows = [row for line in lines for row in wrapped(line, width)]
    if has_bar:
        rows.insert(len(wrapped(lines[0], width)), _bar_line(status, width, ascii_only=ascii_only))
    return rows


def _bar_line(status: RunStatus, width: int, *, ascii_only: bool) -> str:
    """Return the bar, the percentage and the forecast."""
    text = "  ".join(filter(None, (format_percent(status.tally), str(status.activity.forecast))))
    text = clipped(text, width - _MIN_TEXT)
    bar = percent_bar(done_percent(status.tally), max(min(_BAR, width - len(text) - 3), 1), ascii_only=ascii_only)
    return f"  {bar} {text}"


def wrapped(line: str, width: int) -> list[str]:
    """Return *line* wrapped into at most two rows of *width* columns; an ellipsis marks a cut.

    >>> wrapped("  one two three four", 11)
    ['  one two', '    three …']
    """
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width or width <= len(indent) + _MIN_TEXT // 2:
        return [clipped(line, width)]
    wrapper = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        max_lines=_MAX_ROWS,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return wrapper.wrap(line.strip())


def next_after_limit(limit: str) -> list[tuple[str, str]]:
    """Return options of ``resume``, with their effects, for a run that exceeded *limit*, a configuration field."""
    isolate = [("--isolate-failed-items", "find the failing items, and count only these")] if limit == "error_threshold" else []
    return [
        (f"--{limit.replace('_', '-')} N", "resume with another limit"),
        *isolate,
        ("--retry-failed", "retry failed mini-batches with a full set of attempts"),
    ]


def status_summary(status: RunStatus) -> str:
    """Return state, counts, rate and forecast as one line."""
    tally = status.tally
    line = f"{status.directory.run_id}: {_state(status)}, {tally.finished:,} of {count(tally.planned, *MINI_BATCHES)}"
    line += " so far" if tally.is_growing else f" ({format_percent(tally)})"
    if tally.failed or tally.failed_items:
        line += f", {describe_failures(tally)}"
    return line + _rate_text(status) + _forecast(status)


def _lines(status: RunStatus, now: float, *, has_bar: bool) -> Iterator[str]:
    tally = status.tally
    yield f"{status.directory.run_id}: {_state(status)}"
    for name in ("mini_batches", "items"):
        numbers = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in tally.by_outcome()[name].items())
        yield f"  {name.replace('_', '-')}: {numbers}{', the input is still being listed' if tally.is_growing else ''}"
    yield f"  awaiting retry: {tally.waiting}, rows: {tally.rows}, executions: {status.activity.executions}"
    yield f"  {_times(status, now)}{_rate_text(status)}{'' if has_bar else _forecast(status)}"
    if status.nodes:
        yield f"  {_nodes(status.nodes, now, is_active=status.owner is not None)}"
    for cause in status.causes:
        first_line = escape_control_chars(cause.error).strip().partition("\n")[0]
        example = f"({cause.outcome}, first in mini-batch {cause.first_mini_batch})"
        error = f"{escape_control_chars(cause.error_type)}: {first_line} {example}"
        yield f"  {count(cause.tries, *FAILED_ATTEMPTS)} of {count(cause.mini_batches, *MINI_BATCHES)}: {error}"
    yield from (f"  next: prefect-parallel-run {command}" for command in _next_commands(status))


def _next_commands(status: RunStatus) -> Iterator[str]:
    """Yield commands to try next; none if the columns of rows differ, because resume would keep these rows."""
    if status.end.error_type == RowsDifferError.__name__:
        return
    run_directory = shlex.quote(str(status.directory.path))
    if status.status == "failed":
        yield f"failed {run_directory}"
    if status.end.limit:
        yield from (f"resume {run_directory} {option}" for option, _ in next_after_limit(status.end.limit))
    elif status.status in ("failed", "interrupted", "cancelled"):
        yield f"resume {run_directory}"


def _state(status: RunStatus) -> str:
    if status.owner is not None:
        return f"{status.status} (process {status.owner['pid']} on {status.owner['host']})"
    if status.status == "cancelled":  # the reason is only the name of the signal
        return status.status
    reason = escape_control_chars(status.end.reason)
    return f"{status.status} ({reason})" if reason else status.status


def _times(status: RunStatus, now: float) -> str:
    if status.activity.began is None or status.activity.last is None:
        return "no attempt has ended yet"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.activity.began))
    if status.owner is not None:
        return f"first attempt {began}, latest result {format_seconds(max(now - status.activity.last, 0.0))} ago"
    return f"first attempt {began}, last result {format_seconds(status.activity.last - status.activity.began)} later"


def _rate_text(status: RunStatus) -> str:
    return "" if status.activity.rate is None else f", {status.activity.rate:.1f} mini-batches/s recently"


def _forecast(status: RunStatus) -> str:
    """Return the forecast, unless the run is paused: the state already says that."""
    forecast = status.activity.forecast
    return f", {forecast}" if str(forecast) and not forecast.is_paused else ""


def _nodes(nodes: tuple[NodeProgress, ...], now: float, *, is_active: bool) -> str:
    shares = [
        f"{escape_control_chars(share.node)} {share.succeeded}"
        + (f" ({format_seconds(max(now - share.last, 0.0))} ago)" if is_active else "")
        for share in nodes[:_MAX_NODES]
    ]
    suffix = f", and {len(nodes) - _MAX_NODES} more" if len(nodes) > _MAX_NODES else ""
    return f"succeeded on {', '.join(shares)}{suffix}"
