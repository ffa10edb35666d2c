"""What a report shows, as plain values: read from a run directory, aggregated on the way. Words and shapes are page.py's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.models import Tally
from prefect_parallel_run.monitoring.report.axis import Axis, Floats, spread
from prefect_parallel_run.monitoring.report.lanes import Lanes, allot
from prefect_parallel_run.monitoring.report.places import place_lines
from prefect_parallel_run.monitoring.report.processes import KILLS, Process, read_processes
from prefect_parallel_run.monitoring.report.samples import Progress, Resources, read_progress, read_resources
from prefect_parallel_run.monitoring.report.tries import FATAL, Tries, read_tries, worked
from prefect_parallel_run.planning.plan import Plan, PlanSummary
from prefect_parallel_run.runs.executions import Execution, config_in_force, drives
from prefect_parallel_run.runs.failures import FailedMiniBatch, FailureCause, causes, failed_mini_batches
from prefect_parallel_run.runs.ledger import Ledger, NotedOrder
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json

_MOST_CAUSES, _MOST_FAILED, _MOST_SLOW = 20, 12, 10
CheckCancelled = Callable[[], None]


class FailureGroup(NamedTuple):
    """Failed tries of one cause, and where to look first."""

    cause: FailureCause
    first_at: float  #: Unix time, s; 0 when it is not known
    last_at: float
    places: list[str]  #: the first guilty items, where they are known; else what was in its first mini-batch
    ended: int  #: mini-batches whose last try it was


class Failed(NamedTuple):
    """A mini-batch, or some items of one, that failed for good."""

    failed: FailedMiniBatch
    places: list[str]


class Slow(NamedTuple):
    """A try that took long."""

    mini_batch: int
    attempt: int  #: 0: some of its items were tried apart
    outcome: str
    node: str
    seconds: float
    items: int
    places: list[str]


@dataclass(frozen=True, slots=True)
class ProcessSpan:
    """A stretch of a process's life on the timeline; places are s on the axis."""

    lane: int
    begins: float
    ends: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Who did what, and when."""

    axis: Axis
    lanes: Lanes
    tries: Tries
    alive: Floats  #: s per lane and bin in which its processes were ready; all 0 where nobody wrote that down
    starting: Floats  #: s per lane and bin in which they imported the script or were in init()
    lives: list[ProcessSpan]  #: ready, when tries are drawn one by one
    starts: list[ProcessSpan]  #: import and init(), the same
    kills: Mapping[tuple[int, int, str], int]  #: processes that came to an end of that kind, by lane, bin and reason
    orders: list[tuple[int, float]]  #: number and place of what people ordered, as far as it was followed
    processes: int  #: that were started; 0 where nobody wrote that down
    has_all_processes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a report shows."""

    directory: str
    run_id: str
    description: Mapping[str, Any]  #: run.json
    status: str
    reason: str
    config: Mapping[str, Any]  #: as it was in force at the end
    orders: list[NotedOrder]
    drives: list[Execution]
    driven: int
    tally: Tally
    receipt: Mapping[str, Any] | None
    plan: PlanSummary | None
    timeline: Timeline | None
    resources: Resources | None
    progress: dict[int, list[Progress]]
    causes: list[FailureGroup]
    failed: list[Failed]
    slowest: list[Slow]

    @property
    def began(self) -> float | None:
        """Return the Unix time at which the run was first driven, as far as it is known."""
        return self.drives[0].began if self.drives else self.timeline.axis.begins if self.timeline else None

    @property
    def ended(self) -> float | None:
        """Return the Unix time of its last end."""
        if self.drives and self.drives[-1].ended is not None:
            return self.drives[-1].ended
        return self.timeline.axis.ends if self.timeline else None


def collect(directory: RunDirectory, check_cancelled: CheckCancelled) -> Facts:
    """Return the facts of a run; memory does not depend on the number of its mini-batches.

    Args:
        directory: Of the run, which may be going on.
        check_cancelled: Called now and then; raises to stop.

    Raises:
        OutputError: There is no ledger.
        sqlite3.Error: It cannot be read.
    """
    plan = _plan(directory)
    with Ledger(directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        noted = ledger.facts()
        driven = drives(noted)
        orders = ledger.orders()
        timeline = _timeline(directory, ledger, driven, orders, check_cancelled)
        description = directory.facts() if directory.description.exists() else {}
        return Facts(
            directory=os.fspath(directory.path),
            run_id=directory.run_id,
            description=description,
            config=config_in_force(noted, description.get("config", {})),
            orders=orders,
            status=_status(directory, noted),
            reason=noted.get("reason", ""),
            drives=driven,
            driven=int(noted.get("drives", "0")),
            tally=ledger.tally(),
            receipt=read_json(directory.receipt) if directory.receipt.exists() else None,
            plan=None if plan is None else plan.summary,
            timeline=timeline,
            resources=None if timeline is None else read_resources(directory.logs, timeline.axis, check_cancelled),
            progress=read_progress(directory.logs),
            causes=list(_causes(ledger, plan)),
            failed=list(_failed(ledger, plan)),
            slowest=list(_slowest(ledger, plan)),
        )


def _plan(directory: RunDirectory) -> Plan | None:
    """Return the plan; None while it is being made, or when it cannot be read."""
    try:
        return Plan.open(directory.plan) if directory.plan.exists() else None
    except OutputError:
        return None


def _status(directory: RunDirectory, noted: Mapping[str, str]) -> str:
    status = noted.get("status", "planned")
    return "interrupted" if status == "running" and not directory.is_locked() else status


def _timeline(
    directory: RunDirectory, ledger: Ledger, driven: list[Execution], orders: list[NotedOrder], check_cancelled: CheckCancelled
) -> Timeline | None:
    processes, has_all = read_processes(directory.logs, check_cancelled)
    done = worked(ledger, [drive.began for drive in driven])
    axis = Axis.over(_intervals(done, processes, driven))
    if axis is None:
        return None
    lanes = allot(done, processes)
    tries = read_tries(ledger, axis, lanes, sum(one.tries for one in done), check_cancelled)
    lives, starts = _lives(axis, lanes, processes, driven)
    return Timeline(
        axis=axis,
        lanes=lanes,
        tries=tries,
        alive=_spread(axis, lives, len(lanes.lanes)),
        starting=_spread(axis, starts, len(lanes.lanes)),
        lives=lives if tries.segments is not None else [],
        starts=starts if tries.segments is not None else [],
        kills=_kills(axis, lanes, tries, processes),
        orders=[
            (number, axis.place(order.applied_at)) for number, order in enumerate(orders, 1) if order.applied_at is not None
        ],
        processes=len(processes),
        has_all_processes=has_all,
    )


def _intervals(done: Iterable[Any], processes: Iterable[Process], driven: Iterable[Execution]) -> Iterator[tuple[float, float]]:
    """Yield when something was going on."""
    yield from ((one.began, one.ended) for one in done)
    yield from ((process.started, process.ended or process.ready or process.started) for process in processes)
    yield from ((drive.began, drive.ended or drive.began) for drive in driven)


def _lives(
    axis: Axis, lanes: Lanes, processes: Iterable[Process], driven: list[Execution]
) -> tuple[list[ProcessSpan], list[ProcessSpan]]:
    """Return when the processes of the lanes were ready, and when they were on their way there."""
    ends = {drive.number: drive.ended for drive in driven}
    rows = [(lane, process) for process in processes if (lane := lanes.of_slot(process)) is not None]
    stops = [process.ended or ends.get(process.drive) or axis.ends for _, process in rows]
    ready = [stop if process.ready is None else process.ready for (_, process), stop in zip(rows, stops, strict=True)]
    begins = [
        at - process.init_seconds if process.is_spare else process.started  # a spare imports while it has no slot
        for (_, process), at in zip(rows, ready, strict=True)
    ]
    edges = [axis.places(times).tolist() for times in (begins, ready, stops)]
    lives = [ProcessSpan(lane, at, stop) for (lane, _), at, stop in zip(rows, edges[1], edges[2], strict=True) if stop > at]
    starts = [ProcessSpan(lane, begin, at) for (lane, _), begin, at in zip(rows, edges[0], edges[1], strict=True) if at > begin]
    return lives, starts


def _spread(axis: Axis, lives: list[ProcessSpan], count: int) -> Floats:
    lanes = np.asarray([life.lane for life in lives], dtype=np.int64)
    begins = np.asarray([life.begins for life in lives], dtype=np.float64)
    ends = np.asarray([life.ends for life in lives], dtype=np.float64)
    return spread(axis, lanes, begins, ends, count)


def _kills(axis: Axis, lanes: Lanes, tries: Tries, processes: Iterable[Process]) -> dict[tuple[int, int, str], int]:
    """Return the ends that somebody wants to know of: as the nodes wrote them down, else as the tries ended."""
    found: dict[tuple[int, int, str], int] = {}
    told: set[int] = set()  # lanes of which somebody wrote it down
    for process in processes:
        lane = lanes.of_slot(process)
        if lane is None:
            continue
        told.add(lane)
        if process.ended is not None and process.reason in KILLS:
            key = lane, int(axis.bins(axis.places([process.ended]))[0]), process.reason
            found[key] = found.get(key, 0) + 1
    for (lane, place, outcome), count in tries.fatal.items():
        if outcome in FATAL and (outcome == "lost" or lane not in told):
            found[lane, place, outcome] = found.get((lane, place, outcome), 0) + count
    return found


def _causes(ledger: Ledger, plan: Plan | None) -> Iterator[FailureGroup]:
    found = causes(ledger, _MOST_CAUSES)
    if not found:
        return
    times = {
        fingerprint: (first, last)
        for fingerprint, first, last in ledger.rows(
            "SELECT fingerprint, MIN(started), MAX(started) FROM attempts WHERE outcome <> 'succeeded' GROUP BY fingerprint"
        )
    }
    ended = dict(
        ledger.rows(
            "SELECT fingerprint, COUNT(*) FROM mini_batches JOIN attempts ON attempts.mini_batch = mini_batches.mini_batch"
            " AND attempt = attempts WHERE state = 'failed' GROUP BY fingerprint"
        )
    )
    for cause in sorted(found, key=lambda cause: -cause.failed_items):  # of equal ones the most frequent first
        first, last = times.get(cause.fingerprint, (0.0, 0.0))
        number, *piece = cause.guilty or (cause.first_mini_batch,)
        places = _places(plan, number, (piece[0], piece[1]) if piece else None)
        yield FailureGroup(cause, first or 0.0, last or 0.0, places, ended.get(cause.fingerprint, 0))


def _failed(ledger: Ledger, plan: Plan | None) -> Iterator[Failed]:
    for failed in islice(failed_mini_batches(ledger), _MOST_FAILED):
        yield Failed(failed, _places(plan, failed.mini_batch, failed.piece, 1))


def _slowest(ledger: Ledger, plan: Plan | None) -> Iterator[Slow]:
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), seconds, start, stop, items FROM ("
        " SELECT mini_batch, attempt, outcome, node, seconds, 0 AS start, 0 AS stop FROM attempts WHERE seconds > 0"
        " UNION ALL SELECT mini_batch, 0, outcome, node, seconds, start, stop FROM pieces WHERE seconds > 0"
        " ORDER BY seconds DESC, mini_batch LIMIT ?) JOIN mini_batches USING (mini_batch) ORDER BY seconds DESC, mini_batch"
    )
    for mini_batch, attempt, outcome, node, seconds, start, stop, items in ledger.rows(query, _MOST_SLOW):
        places = _places(plan, mini_batch, (start, stop) if stop else None, 1)
        yield Slow(mini_batch, attempt, outcome, node, seconds, stop - start if stop else items, places)


def _places(plan: Plan | None, number: int, piece: tuple[int, int] | None = None, most: int = 3) -> list[str]:
    if plan is None or number >= plan.summary.mini_batches:
        return []
    return place_lines(json.loads(plan.works(number, number + 1)[0]), piece, most)
