"""One execution of a run: opens the nodes and dispatches until every mini-batch has its final outcome."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Protocol

from prefect_parallel_run._threads import CheckCancelled, chain_checks
from prefect_parallel_run.compute.base import Cluster
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.autoscaler import Autoscaler, NodeBounds
from prefect_parallel_run.dispatch.dispatcher import Dispatcher, Run
from prefect_parallel_run.dispatch.node_setup import NodeSpec
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.execution.cluster_startup import ClusterStartup
from prefect_parallel_run.execution.code_shipping import prepare_remote
from prefect_parallel_run.execution.control import Control, ControlListener
from prefect_parallel_run.models import PendingWork, Tally
from prefect_parallel_run.node.settings import (
    InterpreterSettings,
    ItemSettings,
    NodeOptions,
    NodeSettings,
    ProcessLimits,
    RowSettings,
    RunContext,
    ScriptSettings,
)
from prefect_parallel_run.output.columns import ColumnChecker
from prefect_parallel_run.output.formats import FORMATS
from prefect_parallel_run.planning.plan import Plan, PlanReader
from prefect_parallel_run.planning.planner import Planner
from prefect_parallel_run.runs.commands import PROCESSES
from prefect_parallel_run.runs.create import complete_description
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.resolve import RunSelection
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, failure_limits

_MAX_LEASE_BYTES = 2_000_000  #: bytes of work descriptions in one message
_MAX_PER_LEASE = 1_000
_PLANNING_POLL_INTERVAL = 0.02  #: s between two polls of a plan without mini-batches
_PLANNING_PATIENCE = 0.1  #: s
_UNBOUNDED = 1 << 30  #: no upper bound on a node's slots
_NODE_PATIENCE = 60.0  #: s without any node before the run fails; Prefect's retry then opens a new cluster


class RunListener(Observer, ControlListener, Protocol):
    """Receives all events of a run."""

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """The first leases are about to be sent; *tally* is not empty when the run is resumed from its ledger."""

    def noted(self, text: str) -> None:
        """Something that is not a problem may interest the user."""

    def ended(self, ledger: Ledger) -> None:
        """The execution ended, successfully or not; the ledger is final."""

    def closed(self, status: str, reason: str) -> None:
        """The run is over: its result is published, or will not be published.

        Args:
            status: succeeded, failed, interrupted or cancelled.
            reason: Why it did not succeed.
        """


def execute(
    spec: StepSpec,
    selection: RunSelection,
    ledger: Ledger,
    execution: int,
    startup: ClusterStartup,
    listener: RunListener,
    check_cancelled: CheckCancelled,
    control: Control,
) -> None:
    """Run all mini-batches without a final outcome, including those that are planned meanwhile."""
    if selection.granted == 0:
        listener.warned("nothing to retry: the only failures are rows that run() did not return")
    adjustments = Overrides.of_ledger(ledger)
    spec = replace(spec, config=adjustments.of(spec.config))
    config, directory, planner = spec.config, selection.directory, selection.planner
    ledger.fail_exhausted(config.run_max_try, isolate=config.isolate_failed_items)
    if planner is not None:
        startup.start()
    plan, pending_work = _load_plan(directory, planner, ledger, check_cancelled)
    if planner is None and pending_work.tally.finished == pending_work.tally.planned:
        return  # only the reduction is left
    if not pending_work.tally.is_growing:
        complete_description(directory, planner)
    check_rows = None
    if spec.result is not None and FORMATS[config.result_format].has_one_schema:
        check_rows = ColumnChecker(directory, plan, ledger, spec.result).check
    settings = _node_settings(spec, directory, execution, pending_work.tally)
    startup.prepare(settings)
    cluster = startup.wait(check_cancelled)
    policy = _scheduling_policy(spec, plan, shared_workers=not cluster.is_here)
    state = RunState(policy, pending_work, lambda index: plan.items(index, index + 1)[0])
    if PROCESSES not in adjustments.changes:  # otherwise a command set them
        settings = settings.with_node(slots=cluster.slots)
    listener.began(directory, pending_work.tally, cluster.dashboard)
    if spec.environment is not None:
        listener.noted("building the script's environment on nodes that do not have it cached; this may take minutes")
    check_cancelled = (
        check_cancelled if selection.check is None else chain_checks(check_cancelled, selection.check.raise_if_failed)
    )
    planning_warnings = _PlanningWarnings(directory, planner, listener.warned)
    try:
        with ExitStack() as stack:
            remote_setup = None
            if not cluster.is_here:
                settings, remote_setup = prepare_remote(spec, directory, settings, plan, check_cancelled)
                stack.callback(remote_setup.clean_up)
            run = Run(
                plan=plan,
                ledger=ledger,
                state=state,
                plan_stream=planner if pending_work.tally.is_growing else None,
                commands=control.events,
                check_rows=check_rows,
            )
            nodes = NodeSpec(settings=settings, at_most=config.node_count, remote=remote_setup)
            check_run = chain_checks(check_cancelled, planning_warnings.log)
            Dispatcher(cluster, nodes, run, listener, check_run, _autoscaler(config, cluster, listener.warned)).run()
            planning_warnings.log()  # planning may have ended after the last check
    finally:
        listener.ended(ledger)


class _PlanningWarnings:
    """Logs the warnings of planning once it is complete."""

    def __init__(self, directory: RunDirectory, planner: Planner | None, warn: Callable[[str], None]) -> None:
        self._directory, self._planner, self._warn = directory, planner, warn
        self._are_logged = False

    def log(self) -> None:
        """Log the warnings, unless they were logged or planning is incomplete."""
        if self._are_logged or not (self._planner is None or self._planner.is_over()):
            return
        self._are_logged = True
        summary = Plan.open(self._directory.plan).summary if self._planner is None else self._planner.summary()
        for note in summary.notes:
            self._warn(note)


def _load_plan(
    directory: RunDirectory, planner: Planner | None, ledger: Ledger, check_cancelled: CheckCancelled
) -> tuple[PlanReader, PendingWork]:
    """Return the plan and its pending work; with a planner, as soon as there is some."""
    if planner is not None:
        is_growing = _await_plan(planner, ledger, check_cancelled)
        return planner.plan, ledger.pending_work(is_growing=is_growing)
    plan = Plan.open(directory.plan)
    ledger.extend(islice(plan.all_items(), ledger.planned(), None))  # the last execution may have ended just after planning
    return plan, ledger.pending_work()


def _scheduling_policy(spec: StepSpec, plan: PlanReader, *, shared_workers: bool) -> SchedulingPolicy:
    config = spec.config
    return SchedulingPolicy(
        run_max_try=config.run_max_try,
        limits=failure_limits(config),
        retry_delay=config.retry_delay_seconds,
        max_per_lease=max(1, min(_MAX_PER_LEASE, _MAX_LEASE_BYTES // plan.typical_bytes())),
        node_patience=_NODE_PATIENCE,
        isolate=config.isolate_failed_items,
        speculative=config.speculative_execution,
        fetches=spec.fetches,
        shared_workers=shared_workers,
    )


def _autoscaler(config: ParallelRunConfig, cluster: Cluster, warn: Callable[[str], None]) -> Autoscaler | None:
    """Return the autoscaler of a cluster; None for one that cannot grow and shrink."""
    if not cluster.is_elastic:
        return None
    bounds = NodeBounds(at_least=config.min_nodes or config.node_count, at_most=config.node_count)
    return Autoscaler(bounds, cluster.scale, cluster.release, warn)


def _await_plan(planner: Planner, ledger: Ledger, check_cancelled: CheckCancelled) -> bool:
    """Wait for the first mini-batches or the end of planning; return whether more may follow.

    Waits a little for a short plan to be complete: the cluster takes longer to open, and few mini-batches need few processes.
    """
    patience = time.monotonic() + _PLANNING_PATIENCE
    while True:
        is_over = planner.is_over()  # checked first: take() then returns the complete rest
        for items in planner.take():
            ledger.extend(items)
        if is_over or (ledger.planned() and time.monotonic() > patience):
            return not is_over
        check_cancelled()
        time.sleep(_PLANNING_POLL_INTERVAL)


def _node_settings(spec: StepSpec, directory: RunDirectory, execution: int, tally: Tally) -> NodeSettings:
    config = spec.config
    return NodeSettings(
        token=uuid.uuid4().hex,
        node=NodeOptions(
            slots=config.process_count_per_node,
            most_slots=_UNBOUNDED if tally.is_growing else tally.planned - tally.finished,
        ),
        run=RunContext(drive=execution, directory=str(directory.path), run_id=directory.run_id, step=spec.name),
        interpreter=InterpreterSettings(
            path=spec.interpreter, plan=spec.environment, variables=dict(config.environment_variables)
        ),
        script=ScriptSettings(
            path=str(config.script_path),
            source=str(config.source_path),
            arguments=spec.arguments,
            output=spec.output or "",
            side_inputs=dict(spec.side_inputs),
            models=dict(config.models),
            logging_level=config.logging_level,
        ),
        items=ItemSettings(modules=spec.datasets[0].modules, fetches=spec.fetches),
        rows=RowSettings(
            keep=spec.result is not None,
            format=config.result_format,
            header=config.append_row_header,
            csv_options=config.append_row_csv_options or {},
        ),
        limits=ProcessLimits(
            run_invocation_timeout=config.run_invocation_timeout,
            init_timeout=config.init_timeout,
            memory=config.memory_limit_bytes,
        ),
    )
