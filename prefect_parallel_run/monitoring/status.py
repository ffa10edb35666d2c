"""The status of a run from its ledger: state, counts, rate, nodes, failures by cause. Read-only, also during the run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.progress import Forecast, ProgressSnapshot
from prefect_parallel_run.runs.executions import effective_config, recorded_executions
from prefect_parallel_run.runs.failures import FailureCause, causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.runs.run_directory import RunDirectory

_RATE_WINDOW = 60.0  #: s over which the rate is measured
_MIN_RATE_SECONDS = 1.0  #: a shorter time gives no meaningful rate
_MAX_CAUSES = 5


class NodeProgress(NamedTuple):
    """The attempts of one node."""

    node: str
    tries: int
    succeeded: int
    last: float  #: Unix time of its latest result, s


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The status of a run at one moment."""

    run: str
    run_directory: str
    status: str  #: planned, running, paused, succeeded, failed, cancelled, interrupted
    reason: str  #: why it ended without success
    ended_by: str = ""  #: the class of the error that ended it
    owner: Mapping[str, Any] | None  #: pid and host of the process that executes it
    tally: Tally
    executions: int
    began: float | None  #: Unix time of the first attempt, s
    last: float | None  #: Unix time of the latest result, s
    rate: float | None  #: mini-batches per second that succeeded recently; None unless a process executes the run
    forecast: Forecast  #: empty unless a process executes the run
    exceeded: str  #: configuration field of the limit that ended it
    nodes: tuple[NodeProgress, ...]
    causes: tuple[FailureCause, ...]  #: the most frequent


def look(directory: RunDirectory, now: float, owner: Mapping[str, Any] | None = None) -> RunStatus:
    """Return the status of the run in *directory*.

    Args:
        directory: The run directory.
        now: Unix time, s.
        owner: Process that executes it on another machine, if known.
    """
    owner = directory.owner() or owner
    with Ledger(directory.ledger) as ledger:
        metadata, tally = ledger.metadata(), ledger.tally()
        active_since = _active_since(metadata)
        since = max(now - _RATE_WINDOW, active_since)
        nodes = [_NodeRow(*row) for row in ledger.rows(_NODES, since, since, since)]
        failures = tuple(causes(ledger, _MAX_CAUSES))
    status = status_of(metadata, has_owner=owner is not None)
    has_ended = status not in ("running", "paused")
    is_growing = owner is not None and not directory.plan.exists()
    tally = replace(tally, is_growing=is_growing, all_scheduled=tally.all_scheduled and not is_growing)
    config = effective_config(metadata, _config(directory))
    limits = FailureLimits.of(config)
    rate = _rate(nodes, now, active_since)
    began = min((node.began for node in nodes if node.began is not None), default=None)
    snapshot = ProgressSnapshot(  # the process that executes the run uses the same counts and limits
        tally=tally,
        elapsed=now - (began or now),
        active_seconds=now - (began or now),
        done=int(sum(node.succeeded for node in nodes)),
        slots=sum(node.recent_processes for node in nodes),
        held=limits.near_breach(tally, isolates=bool(config.get("isolate_failed_items"))),
        is_paused=status == "paused",
    )
    return RunStatus(
        run=directory.run_id,
        run_directory=os.fspath(directory.path),
        status=status,
        reason=metadata.get("reason", "") if has_ended else "",
        ended_by=metadata.get("ended_by", "") if has_ended else "",
        owner=owner,
        tally=tally,
        executions=int(metadata.get("drives", "0")),
        began=began,
        last=max((node.last for node in nodes if node.last is not None), default=None),
        rate=rate if owner is not None else None,
        forecast=Forecast() if has_ended else snapshot.forecast_at(rate),
        exceeded=_exceeded(limits, tally) if status == "failed" else "",
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
    " UNION ALL SELECT node, pid, started, started + seconds, 0 FROM pieces)"  # an attempt at some items finishes no mini-batch
    " GROUP BY node ORDER BY LENGTH(node), node"
)


def _active_since(metadata: Mapping[str, str]) -> float:
    """Return the Unix time of the latest start of an execution or end of a pause; 0 if unknown."""
    executions = recorded_executions(metadata)
    return max(executions[-1].began if executions else 0.0, float(metadata.get("continued", 0.0)))


def _config(directory: RunDirectory) -> dict[str, Any]:
    """Return the configuration at the start of the run."""
    config: dict[str, Any] = directory.metadata().get("config", {}) if directory.description.exists() else {}
    return config


def _rate(nodes: list[_NodeRow], now: float, active_since: float) -> float:
    """Return how many mini-batches per second succeeded recently."""
    starts = [node.recent_since for node in nodes if node.recent_since is not None]
    seconds = now - max(min(starts, default=now), active_since)
    return sum(node.recent for node in nodes) / max(seconds, _MIN_RATE_SECONDS) if starts else 0.0


def _exceeded(limits: FailureLimits, tally: Tally) -> str:
    """Return the limit that ended a run. An ended run counts as completely scheduled: the ledger does not record that."""
    breach = limits.first_breach(replace(tally, all_scheduled=True))
    return "" if breach is None else breach.limit


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
        "run": status.run,
        "run_directory": status.run_directory,
        "status": status.status,
        "reason": status.reason,
        "driver": dict(status.owner) if status.owner is not None else None,
        **tally.by_outcome(),
        "waiting": tally.waiting,
        "is_growing": tally.is_growing,
        "drives": status.executions,
        "began": status.began,
        "last": status.last,
        "rate": status.rate,
        "remaining_seconds": status.forecast.remaining,
        "waits_for": status.forecast.waits_for,
        "held": status.forecast.held._asdict() if status.forecast.held is not None else None,
        "nodes": [share._asdict() for share in status.nodes],
        "causes": [cause._asdict() for cause in status.causes],
    }
