"""The data of a report: read from a run directory and aggregated while reading. page.py renders it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.errors import OutputError
from prefect_parallel_run.models import Outcome, Tally
from prefect_parallel_run.monitoring.locations import location_lines
from prefect_parallel_run.monitoring.report.attempts import Attempts, process_work, read_attempts
from prefect_parallel_run.monitoring.report.axis import Axis, Floats, spread
from prefect_parallel_run.monitoring.report.lanes import Lanes, assign_lanes
from prefect_parallel_run.monitoring.report.log_readers import (
    KILLS,
    Process,
    Progress,
    Resources,
    read_processes,
    read_progress,
    read_resources,
)
from prefect_parallel_run.monitoring.status import status_of
from prefect_parallel_run.output.failed_items import select_items
from prefect_parallel_run.planning.plan import Plan, PlanSummary
from prefect_parallel_run.runs.executions import Execution, effective_config, recorded_executions
from prefect_parallel_run.runs.failures import FailedMiniBatch, FailureCause, causes, failed_mini_batches
from prefect_parallel_run.runs.ledger import Ledger, RecordedCommand
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json

_MAX_CAUSES, _MAX_FAILED, _MAX_SLOW = 20, 12, 10


class FailureGroup(NamedTuple):
    """The failed attempts with one cause, and its first example."""

    cause: FailureCause
    first_at: float  #: Unix time, s; 0 if unknown
    inputs: list[str]  #: the first failing items if known, otherwise the input of the first mini-batch


class Failed(NamedTuple):
    """A mini-batch, or some items of one, without attempts left."""

    failed: FailedMiniBatch
    inputs: list[str]


class SlowAttempt(NamedTuple):
    """One of the slowest attempts."""

    mini_batch: int
    attempt: int  #: 0 for an attempt at some items of the mini-batch
    outcome: str
    node: str
    seconds: float
    items: int
    inputs: list[str]


class ProcessSpan(NamedTuple):
    """A part of a process's lifetime on the timeline; positions on the axis, s."""

    lane: int
    begins: float
    ends: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """The processes of a run over time; without process logs, none."""

    count: int
    is_complete: bool  #: all started processes are in the logs
    threads: list[str]  #: numbers of threads that a process may use, in order of first use
    ready: Floats  #: s per lane and bin
    starting: Floats  #: s per lane and bin in which they imported the script or were in init()
    lifetimes: list[ProcessSpan]  #: ready; empty unless attempts are drawn one by one
    starts: list[ProcessSpan]  #: import and init(); empty unless attempts are drawn one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The attempts and processes of a run over time."""

    axis: Axis
    lanes: Lanes
    attempts: Attempts
    processes: ProcessTimes
    kills: Mapping[tuple[int, int, str], int]  #: number of processes by lane, bin and reason of their end
    commands: list[tuple[int, float]]  #: number and position of each applied control command


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The facts in the run directory about the run as a whole."""

    directory: RunDirectory
    description: Mapping[str, Any]  #: run.json
    status: str
    reason: str
    receipt: Mapping[str, Any] | None
    plan: PlanSummary | None

    @property
    def first_config(self) -> Mapping[str, Any]:
        """Return the configuration at the start of the run."""
        config: Mapping[str, Any] = self.description.get("config", {})
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The executions of a run, and what was changed by commands."""

    executions: list[Execution]
    count: int  #: of executions; some may lack a record
    commands: list[RecordedCommand]
    config: Mapping[str, Any]  #: in force at the end


class Failures(NamedTuple):
    """Examples of what failed."""

    causes: list[FailureGroup]
    mini_batches: list[Failed]
    is_cut: bool  #: more mini-batches or isolated items failed than *mini_batches* holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that a report shows."""

    run: RunFacts
    history: History
    tally: Tally
    timeline: Timeline | None
    resources: Resources | None
    progress: dict[int, list[Progress]]  #: by number of the execution
    failures: Failures
    slowest: list[SlowAttempt]

    @property
    def began(self) -> float | None:
        """Return the Unix time of the first start of the run; None if unknown."""
        executions = self.history.executions
        return executions[0].began if executions else self.timeline.axis.begins if self.timeline else None

    @property
    def ended(self) -> float | None:
        """Return the Unix time of the end of the last execution; None if unknown."""
        executions = self.history.executions
        if executions and executions[-1].ended is not None:
            return executions[-1].ended
        return self.timeline.axis.ends if self.timeline else None


def collect(directory: RunDirectory, check_cancelled: CheckCancelled) -> ReportData:
    """Return the data of a run; memory use is independent of the number of mini-batches.

    Args:
        directory: The run directory; the run may still be active.
        check_cancelled: Called repeatedly; raises to stop.

    Raises:
        OutputError: The run directory lacks a ledger.
        sqlite3.Error: The ledger cannot be read.
    """
    plan = _plan(directory)
    with Ledger(directory.ledger) as ledger:
        ledger.watch(check_cancelled)
        metadata = ledger.metadata()
        run = _run_facts(directory, metadata, plan)
        history = History(
            executions=recorded_executions(metadata),
            count=int(metadata.get("drives", "0")),
            commands=ledger.commands(),
            config=effective_config(metadata, run.first_config),
        )
        timeline = _timeline(directory, ledger, history, check_cancelled)
        return ReportData(
            run=run,
            history=history,
            tally=ledger.tally(),
            timeline=timeline,
            resources=None if timeline is None else read_resources(directory.logs, timeline.axis, check_cancelled),
            progress=read_progress(directory.logs),
            failures=Failures(list(_causes(ledger, plan)), *_failed(ledger, plan)),
            slowest=list(_slowest(ledger, plan)),
        )


def _run_facts(directory: RunDirectory, metadata: Mapping[str, str], plan: Plan | None) -> RunFacts:
    return RunFacts(
        directory=directory,
        description=directory.metadata() if directory.description.exists() else {},
        status=status_of(metadata, has_owner=directory.owner() is not None),
        reason=metadata.get("reason", ""),
        receipt=read_json(directory.receipt) if directory.receipt.exists() else None,
        plan=None if plan is None else plan.summary,
    )


def _plan(directory: RunDirectory) -> Plan | None:
    """Return the plan; None if it is incomplete or unreadable."""
    try:
        return Plan(directory.plan) if directory.plan.exists() else None
    except OutputError:
        return None


def _timeline(directory: RunDirectory, ledger: Ledger, history: History, check_cancelled: CheckCancelled) -> Timeline | None:
    processes, has_all = read_processes(directory.logs, check_cancelled)
    work = process_work(ledger, [execution.began for execution in history.executions])
    axis = Axis.over(_intervals(work, processes, history.executions))
    if axis is None:
        return None
    lanes = assign_lanes(work, processes)
    attempts = read_attempts(ledger, axis, lanes, sum(process.attempts for process in work), check_cancelled)
    lifetimes, starts = _lifetimes(axis, lanes, processes, history.executions)
    times = ProcessTimes(
        count=len(processes),
        is_complete=has_all,
        threads=list(dict.fromkeys(process.threads for process in processes if process.threads)),
        ready=_spread(axis, lifetimes, len(lanes.lanes)),
        starting=_spread(axis, starts, len(lanes.lanes)),
        lifetimes=lifetimes if attempts.segments is not None else [],
        starts=starts if attempts.segments is not None else [],
    )
    applied = [(number, command.applied_at) for number, command in enumerate(history.commands, 1)]
    return Timeline(
        axis=axis,
        lanes=lanes,
        attempts=attempts,
        processes=times,
        kills=_kills(axis, lanes, attempts, processes),
        commands=[(number, axis.position(at)) for number, at in applied if at is not None],
    )


def _intervals(
    work: Iterable[Any], processes: Iterable[Process], executions: Iterable[Execution]
) -> Iterator[tuple[float, float]]:
    """Yield the intervals in which the run was active."""
    yield from ((process.began, process.ended) for process in work)
    yield from ((process.started, process.end.at if process.end else process.ready or process.started) for process in processes)
    yield from ((execution.began, execution.ended or execution.began) for execution in executions)


def _lifetimes(
    axis: Axis, lanes: Lanes, processes: Iterable[Process], executions: list[Execution]
) -> tuple[list[ProcessSpan], list[ProcessSpan]]:
    """Return the spans in which the processes of the lanes were ready, and in which they started."""
    ends = {execution.number: execution.ended for execution in executions}
    rows = [(lane, process) for process in processes if (lane := lanes.of_slot(process)) is not None]
    stops = [process.end.at if process.end else ends.get(process.execution) or axis.ends for _, process in rows]
    ready = [stop if process.ready is None else process.ready for (_, process), stop in zip(rows, stops, strict=True)]
    begins = [at if process.setup_began is None else process.setup_began for (_, process), at in zip(rows, ready, strict=True)]
    edges = [axis.positions(times).tolist() for times in (begins, ready, stops)]
    lifetimes = [ProcessSpan(lane, at, stop) for (lane, _), at, stop in zip(rows, edges[1], edges[2], strict=True) if stop > at]
    starts = [ProcessSpan(lane, begin, at) for (lane, _), begin, at in zip(rows, edges[0], edges[1], strict=True) if at > begin]
    return lifetimes, starts


def _spread(axis: Axis, spans: list[ProcessSpan], count: int) -> Floats:
    lanes, begins, ends = np.asarray(spans, dtype=np.float64).reshape(-1, 3).T
    return spread(axis, lanes.astype(np.int64), begins, ends, count)


def _kills(axis: Axis, lanes: Lanes, attempts: Attempts, processes: Iterable[Process]) -> dict[tuple[int, int, str], int]:
    """Return the unexpected ends of processes: from the process logs, otherwise from the outcomes of attempts."""
    kills: Counter[tuple[int, int, str]] = Counter()
    logged: set[int] = set()  # lanes with a process log
    for process in processes:
        lane = lanes.of_slot(process)
        if lane is None:
            continue
        logged.add(lane)
        if process.end is not None and process.end.reason in KILLS:
            kills[lane, int(axis.bins(axis.positions([process.end.at]))[0]), process.end.reason] += 1
    for (lane, position, outcome), count in attempts.fatal.items():
        if outcome == Outcome.LOST or lane not in logged:
            kills[lane, position, outcome] += count
    return kills


def _causes(ledger: Ledger, plan: Plan | None) -> Iterator[FailureGroup]:
    failures = causes(ledger, _MAX_CAUSES)
    if not failures:
        return
    first_at = dict(
        ledger.rows("SELECT fingerprint, MIN(started) FROM attempts WHERE outcome <> 'succeeded' GROUP BY fingerprint")
    )
    for cause in sorted(failures, key=lambda cause: -cause.failed_items):  # stable: then the most frequent first
        number, *piece = cause.guilty or (cause.first_mini_batch,)
        inputs = _inputs(plan, number, (piece[0], piece[1]) if piece else None)
        yield FailureGroup(cause, first_at.get(cause.fingerprint) or 0.0, inputs)


def _failed(ledger: Ledger, plan: Plan | None) -> tuple[list[Failed], bool]:
    """Return the first failures, and whether there are more."""
    found = list(islice(failed_mini_batches(ledger), _MAX_FAILED + 1))
    shown = [Failed(failed, _inputs(plan, failed.mini_batch, failed.piece, 1)) for failed in found[:_MAX_FAILED]]
    return shown, len(found) > _MAX_FAILED


def _slowest(ledger: Ledger, plan: Plan | None) -> Iterator[SlowAttempt]:
    query = (
        "SELECT mini_batch, attempt, outcome, COALESCE(node, ''), seconds, start, stop, items FROM ("
        " SELECT mini_batch, attempt, outcome, node, seconds, 0 AS start, 0 AS stop FROM attempts WHERE seconds > 0"
        " UNION ALL SELECT mini_batch, 0, outcome, node, seconds, start, stop FROM pieces WHERE seconds > 0"
        " ORDER BY seconds DESC, mini_batch LIMIT ?) JOIN mini_batches USING (mini_batch) ORDER BY seconds DESC, mini_batch"
    )
    for mini_batch, attempt, outcome, node, seconds, start, stop, items in ledger.rows(query, _MAX_SLOW):
        inputs = _inputs(plan, mini_batch, (start, stop) if stop else None, 1)
        yield SlowAttempt(mini_batch, attempt, outcome, node, seconds, stop - start if stop else items, inputs)


def _inputs(plan: Plan | None, number: int, piece: tuple[int, int] | None = None, most: int = 3) -> list[str]:
    if plan is None or number >= plan.summary.mini_batches:
        return []
    work = json.loads(plan.works(number, number + 1)[0])
    return location_lines(select_items(work, *piece) if piece else work, most)
