"""How a run stands, as its ledger has it: state, counts, rate, nodes, failures by cause. Only reads, also while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from prefect_parallel_run.records import Tally
from prefect_parallel_run.runs.failures import Cause, causes
from prefect_parallel_run.runs.ledger import Ledger
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
class Standing:
    """How a run stands."""

    run: str
    run_directory: str
    status: str  #: planned, running, paused, succeeded, failed, cancelled, interrupted
    reason: str  #: why it ended, when it has not succeeded
    driver: Mapping[str, Any] | None  #: pid and host of the process that drives it
    tally: Tally
    drives: int
    began: float | None  #: Unix time of the first try, s
    last: float | None  #: Unix time of the newest result, s
    rate: float | None  #: mini-batches per second that succeeded of late; None where it is not driven
    nodes: tuple[NodeShare, ...]
    causes: tuple[Cause, ...]  #: the most frequent ones

    @property
    def remaining_seconds(self) -> float | None:
        """Return the seconds still to go at the rate of late, or None when that cannot be told."""
        if not self.rate or self.tally.is_growing or self.status != "running":
            return None
        return (self.tally.planned - self.tally.finished) / self.rate


def look(directory: RunDirectory, now: float, driver: Mapping[str, Any] | None = None) -> Standing:
    """Return how the run in *directory* stands.

    Args:
        directory: Of the run.
        now: Unix time, s.
        driver: Who drives it on another machine, where that is known.
    """
    driver = directory.driver() or driver
    since = now - _RECENT
    with Ledger(directory.ledger) as ledger:
        facts, tally = ledger.facts(), ledger.tally()
        rows = list(ledger.rows(_NODES, since, since))
        found = tuple(causes(ledger, _MOST_CAUSES))
    status = status_of(facts, is_driven=driver is not None)
    is_growing = driver is not None and not directory.plan.exists()
    starts = [row[6] for row in rows if row[6] is not None]
    recent = sum(row[5] for row in rows) / max(now - min(starts), _SHORTEST) if starts else 0.0
    return Standing(
        run=directory.run_id,
        run_directory=os.fspath(directory.path),
        status=status,
        reason=facts.get("reason", "") if status not in ("running", "paused") else "",
        driver=driver,
        tally=replace(tally, is_growing=is_growing),
        drives=int(facts.get("drives", "0")),
        began=min((row[3] for row in rows if row[3] is not None), default=None),
        last=max((row[4] for row in rows if row[4] is not None), default=None),
        rate=recent if driver is not None else None,
        nodes=tuple(NodeShare(row[0] or "?", row[1], int(row[2]), row[4] or 0.0) for row in rows),
        causes=found,
    )


_NODES = (
    "SELECT node, COUNT(*), TOTAL(is_done), MIN(started), MAX(ended), TOTAL(is_done AND ended > ?),"
    " MIN(CASE WHEN ended > ? THEN started END) FROM ("
    " SELECT node, started, started + seconds AS ended, outcome = 'succeeded' AS is_done FROM attempts"
    " UNION ALL SELECT node, started, started + seconds, 0 FROM pieces)"  # tries of some items finish no mini-batch
    " GROUP BY node ORDER BY LENGTH(node), node"
)


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


def as_plain(standing: Standing) -> dict[str, Any]:
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
        "remaining_seconds": standing.remaining_seconds,
        "nodes": [share._asdict() for share in standing.nodes],
        "causes": [cause._asdict() for cause in standing.causes],
    }
