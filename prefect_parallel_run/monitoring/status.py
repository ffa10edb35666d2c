"""How a run stands, as its ledger has it: state, counts, rate, nodes, failures by cause. Only reads, also while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prefect_parallel_run.models import Breach, Tally
from prefect_parallel_run.monitoring.progress import Forecast, forecast
from prefect_parallel_run.runs.executions import config_in_force, drives
from prefect_parallel_run.runs.failures import FailureCause, causes
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.limits import FailureLimits
from prefect_parallel_run.runs.run_directory import RunDirectory

_RECENT = 60.0  #: s over which the rate is taken
_SHORTEST = 1.0  #: s; over less it says nothing
_MOST_CAUSES = 5


class NodeShare(NamedTuple):
    """What one node has done."""

    node: str
    tries: int
    succeeded: int
    last: float  #: Unix time of its newest result, s


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How a run stands."""

    run: str
    run_directory: str
    status: str  #: planned, running, paused, succeeded, failed, cancelled, interrupted
    reason: str  #: why it ended, when it has not succeeded
    ended_by: str = ""  #: the class of the error that ended it
    driver: Mapping[str, Any] | None  #: pid and host of the process that drives it
    tally: Tally
    drives: int
    began: float | None  #: Unix time of the first try, s
    last: float | None  #: Unix time of the newest result, s
    rate: float | None  #: mini-batches per second that succeeded of late; None where it is not driven
    outlook: Forecast  #: what is to come, where it is driven
    exceeded: str  #: the limit that ended it, by its configuration field
    nodes: tuple[NodeShare, ...]
    causes: tuple[FailureCause, ...]  #: the most frequent ones


def look(directory: RunDirectory, now: float, driver: Mapping[str, Any] | None = None) -> RunStatus:
    """Return how the run in *directory* stands.

    Args:
        directory: Of the run.
        now: Unix time, s.
        driver: Who drives it on another machine, where that is known.
    """
    driver = directory.driver() or driver
    with Ledger(directory.ledger) as ledger:
        facts, tally = ledger.facts(), ledger.tally()
        work_began = _work_began(facts)
        since = max(now - _RECENT, work_began)
        rows = list(ledger.rows(_NODES, since, since, since))
        found = tuple(causes(ledger, _MOST_CAUSES))
    status = status_of(facts, is_driven=driver is not None)
    is_growing = driver is not None and not directory.plan.exists()
    tally = replace(tally, is_growing=is_growing, all_scheduled=tally.all_scheduled and not is_growing)
    config = config_in_force(facts, _config(directory))
    limits = FailureLimits.of(config)
    near = limits.near_breach(tally, isolates=bool(config.get("isolate_failed_items")))
    starts = [row[6] for row in rows if row[6] is not None]
    rate = sum(row[5] for row in rows) / max(now - max(min(starts), work_began), _SHORTEST) if starts else 0.0
    began = min((row[3] for row in rows if row[3] is not None), default=None)
    return RunStatus(
        run=directory.run_id,
        run_directory=os.fspath(directory.path),
        status=status,
        reason=facts.get("reason", "") if status not in ("running", "paused") else "",
        ended_by=facts.get("ended_by", "") if status not in ("running", "paused") else "",
        driver=driver,
        tally=tally,
        drives=int(facts.get("drives", "0")),
        began=began,
        last=max((row[4] for row in rows if row[4] is not None), default=None),
        rate=rate if driver is not None else None,
        outlook=_outlook(status, near, tally, rate, rows, now - (began or now)),
        exceeded=_exceeded(limits, tally) if status == "failed" else "",
        nodes=tuple(NodeShare(row[0] or "?", row[1], int(row[2]), row[4] or 0.0) for row in rows),
        causes=found,
    )


_NODES = (
    "SELECT node, COUNT(*), TOTAL(is_done), MIN(started), MAX(ended), TOTAL(is_done AND ended > ?),"
    " MIN(CASE WHEN ended > ? THEN started END), COUNT(DISTINCT CASE WHEN ended > ? THEN pid END) FROM ("
    " SELECT node, pid, started, started + seconds AS ended, outcome = 'succeeded' AS is_done FROM attempts"
    " UNION ALL SELECT node, pid, started, started + seconds, 0 FROM pieces)"  # tries of some items finish no mini-batch
    " GROUP BY node ORDER BY LENGTH(node), node"
)


def _work_began(facts: Mapping[str, str]) -> float:
    """Return since when work has gone on without a break, Unix time: neither between two drives, nor paused; 0 if unknown."""
    known = drives(facts)
    return max(known[-1].began if known else 0.0, float(facts.get("continued", 0.0)))


def _config(directory: RunDirectory) -> dict[str, Any]:
    """Return what the run was begun with."""
    config: dict[str, Any] = directory.facts().get("config", {}) if directory.description.exists() else {}
    return config


def _outlook(
    status: str, near: Breach | None, tally: Tally, rate: float, rows: list[tuple[Any, ...]], at_work: float
) -> Forecast:
    """Return what is to come, as far as the ledger tells: whoever drives the run judges by the same counts and limits."""
    if status not in ("running", "paused"):
        return Forecast()
    return forecast(
        tally,
        done=int(sum(row[2] for row in rows)),
        rate=rate,
        at_work=at_work,
        slots=sum(row[7] for row in rows),  # processes that have brought something of late
        held=near,
        is_paused=status == "paused",
    )


def _exceeded(limits: FailureLimits, tally: Tally) -> str:
    """Return the limit that ended a run; of one that is over, what was handed out last was not noted."""
    breach = limits.first_breach(replace(tally, all_scheduled=True))
    return "" if breach is None else breach.limit


def status_of(facts: Mapping[str, str], *, is_driven: bool) -> str:
    """Return the state of a run, from what its ledger notes and whether a process drives it now.

    >>> status_of({"status": "running"}, is_driven=False), status_of({"status": "cancelled"}, is_driven=False)
    ('interrupted', 'cancelled')
    >>> status_of({"status": "running", "paused": "true"}, is_driven=True)
    'paused'
    """
    status = facts.get("status", "planned")
    if is_driven and status in ("running", "paused"):
        return "paused" if status == "paused" or facts.get("paused", "").lower() in ("1", "true", "yes") else "running"
    return "interrupted" if status in ("running", "paused") else status


def as_plain(standing: RunStatus) -> dict[str, Any]:
    """Return a standing as plain values; these keys are documented."""
    tally = standing.tally
    return {
        "run": standing.run,
        "run_directory": standing.run_directory,
        "status": standing.status,
        "reason": standing.reason,
        "driver": dict(standing.driver) if standing.driver is not None else None,
        **tally.by_outcome(),
        "waiting": tally.waiting,
        "is_growing": tally.is_growing,
        "drives": standing.drives,
        "began": standing.began,
        "last": standing.last,
        "rate": standing.rate,
        "remaining_seconds": standing.outlook.remaining,
        "waits_for": standing.outlook.waits_for,
        "held": standing.outlook.held._asdict() if standing.outlook.held is not None else None,
        "nodes": [share._asdict() for share in standing.nodes],
        "causes": [cause._asdict() for cause in standing.causes],
    }
