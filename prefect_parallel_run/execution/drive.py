"""One driving of a run: nodes, dispatcher and what is still being planned, until every mini-batch has its final outcome."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Protocol

from prefect_parallel_run._threads import both
from prefect_parallel_run.compute.base import Cluster
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.autoscaler import Autoscaler
from prefect_parallel_run.dispatch.dispatcher import Dispatcher
from prefect_parallel_run.dispatch.node_count import NodeBounds
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.execution.cluster_startup import ClusterStartup
from prefect_parallel_run.execution.code_shipping import prepare_remote
from prefect_parallel_run.execution.control import Control, ControlListener
from prefect_parallel_run.models import PendingWork, Tally
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.output.column_watch import ColumnWatch
from prefect_parallel_run.planning.plan import Plan, PlanReader
from prefect_parallel_run.planning.planner import Planner
from prefect_parallel_run.runs.commands import PROCESSES
from prefect_parallel_run.runs.create import complete_description
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.overrides import Adjustments
from prefect_parallel_run.runs.resolve import RunSelection
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, failure_limits

_MOST_LEASE_BYTES = 2_000_000  #: of work texts in one message
_MOST_PER_LEASE = 1_000
_PLANNING_GLANCE = 0.02  #: s between two looks at a plan that has no mini-batch yet
_PLANNING_PATIENCE = 0.1  #: s
_ANY = 1 << 30  #: slots: as many as the node wants
_NODE_PATIENCE = 60.0  #: s without any node before a run gives up; Prefect's retry then opens a new cluster


class RunListener(Observer, ControlListener, Protocol):
    """Who is told what happens in a run, beyond what the dispatcher and people's orders tell."""

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """The first mini-batches are about to be handed out; *tally* is not empty when the run goes on from its ledger."""

    def noted(self, text: str) -> None:
        """Something that a person may want to know; nothing is wrong."""

    def ended(self, ledger: Ledger) -> None:
        """Nothing runs any more, well or not; the ledger has the last word on every mini-batch."""

    def closed(self, status: str, reason: str) -> None:
        """The run is over: its result is published, or will not be.

        Args:
            status: succeeded, failed, interrupted or cancelled.
            reason: Why it is not succeeded.
        """


def execute(
    spec: StepSpec,
    choice: RunSelection,
    ledger: Ledger,
    drive: int,
    cluster: ClusterStartup,
    watch: RunListener,
    check_cancelled: Callable[[], None],
    control: Control,
) -> None:
    """Run what the ledger says is left to do, and what is planned meanwhile."""
    if choice.granted == 0:
        watch.warned("there is nothing to try again: what failed, if anything, are rows that run() did not return")
    adjustments = Adjustments.of_ledger(ledger)
    spec = replace(spec, config=adjustments.of(spec.config))
    config, directory, planner = spec.config, choice.directory, choice.planner
    ledger.exhaust(config.run_max_try, isolate=config.isolate_failed_items)
    if planner is not None:
        cluster.begin()
    plan, remainder = _left(directory, planner, ledger, check_cancelled)
    if planner is None and remainder.tally.finished == remainder.tally.planned:
        return  # only the reduction was missing
    if not remainder.tally.is_growing:
        complete_description(directory, planner)
    check_rows = None
    if config.result_format == "parquet" and spec.result is not None:
        check_rows = ColumnWatch(directory, plan, ledger, spec.result).check
    settings = _node_settings(spec, directory, drive, remainder.tally)
    cluster.prepare(settings)
    opened = cluster.wait(check_cancelled)
    rules = _rules(spec, plan, shared_workers=not opened.is_here)
    state = RunState(rules, remainder, lambda index: plan.items(index, index + 1)[0])
    if PROCESSES not in adjustments.changes:  # else they are what was ordered, not what the cluster was opened for
        settings = replace(settings, slots=opened.slots)
    watch.began(directory, remainder.tally, opened.dashboard)
    if spec.environment is not None:
        watch.noted("the script's environment is built on every node that has not got it yet, which may take minutes")
    check_cancelled = check_cancelled if choice.check is None else both(check_cancelled, choice.check.raise_if_failed)
    notes = _Notes(directory, planner, watch.warned)
    try:
        with ExitStack() as stack:
            journey = None
            if not opened.is_here:
                settings, journey = prepare_remote(spec, directory, settings, plan, check_cancelled)
                stack.callback(journey.end)
            Dispatcher(
                opened.client,
                settings,
                plan,
                ledger,
                state,
                watch,
                both(check_cancelled, notes.tell),
                opened.discard,
                wanted=config.node_count,
                growth=planner if remainder.tally.is_growing else None,
                prepared=opened.prepared,
                journey=journey,
                elasticity=_elasticity(config, opened, watch.warned),
                orders=control.take,
                check_rows=check_rows,
            ).run()
            notes.tell()  # planning may have ended behind the last heartbeat
    finally:
        watch.ended(ledger)


class _Notes:
    """Passes on what planning has found odd, once it is over."""

    def __init__(self, directory: RunDirectory, planner: Planner | None, warned: Callable[[str], None]) -> None:
        self._directory, self._planner, self._warned = directory, planner, warned
        self._are_told = False

    def tell(self) -> None:
        """Pass it on, unless that has been done or planning goes on."""
        if self._are_told or not (self._planner is None or self._planner.is_over()):
            return
        self._are_told = True
        summary = Plan.open(self._directory.plan).summary if self._planner is None else self._planner.summary()
        for note in summary.notes:
            self._warned(note)


def _left(
    directory: RunDirectory, planner: Planner | None, ledger: Ledger, check_cancelled: Callable[[], None]
) -> tuple[PlanReader, PendingWork]:
    """Return the plan, and what is left to do of it; with a planner, as soon as there is something."""
    if planner is not None:
        is_growing = _await_plan(planner, ledger, check_cancelled)
        return planner.plan, ledger.remainder(is_growing=is_growing)
    plan = Plan.open(directory.plan)
    ledger.extend(islice(plan.all_items(), ledger.planned(), None))  # it may have ended just behind planning
    return plan, ledger.remainder()


def _rules(spec: StepSpec, plan: PlanReader, *, shared_workers: bool) -> SchedulingPolicy:
    config = spec.config
    return SchedulingPolicy(
        run_max_try=config.run_max_try,
        limits=failure_limits(config),
        retry_delay=config.retry_delay_seconds,
        most_per_lease=max(1, min(_MOST_PER_LEASE, _MOST_LEASE_BYTES // plan.typical_bytes())),
        node_patience=_NODE_PATIENCE,
        isolate=config.isolate_failed_items,
        speculative=config.speculative_execution,
        fetches=spec.fetches,
        shared_workers=shared_workers,
    )


def _elasticity(config: ParallelRunConfig, cluster: Cluster, warned: Callable[[str], None]) -> Autoscaler | None:
    """Return what makes a cluster grow and shrink, and replace nodes that were lost; None for one that cannot."""
    if not cluster.is_elastic:
        return None
    bounds = NodeBounds(at_least=config.min_nodes or config.node_count, at_most=config.node_count)
    return Autoscaler(bounds, cluster.scale, cluster.release, warned)


def _await_plan(planner: Planner, ledger: Ledger, check_cancelled: Callable[[], None]) -> bool:
    """Wait for the first mini-batches, or for an input without any; True when more may come.

    A plan that is nearly whole is waited for: the cluster takes longer to open, and few mini-batches need few processes.
    """
    patience = time.monotonic() + _PLANNING_PATIENCE
    while True:
        is_over = planner.is_over()  # asked first: what is taken then is all there will be
        for items in planner.take():
            ledger.extend(items)
        if is_over or (ledger.planned() and time.monotonic() > patience):
            return not is_over
        check_cancelled()
        time.sleep(_PLANNING_GLANCE)


def _node_settings(spec: StepSpec, directory: RunDirectory, drive: int, tally: Tally) -> NodeSettings:
    config = spec.config
    return NodeSettings(
        token=uuid.uuid4().hex,
        drive=drive,
        slots=config.process_count_per_node,
        most_slots=_ANY if tally.is_growing else tally.planned - tally.finished,
        interpreter=spec.interpreter,
        environment=spec.environment,
        script=str(config.script_path),
        source=str(config.source_path),
        arguments=spec.arguments,
        output=spec.output or "",
        side_inputs=dict(spec.side_inputs),
        models=dict(config.models),
        step=spec.name,
        run_id=directory.run_id,
        environment_variables=dict(config.environment_variables),
        run_directory=str(directory.path),
        modules=spec.datasets[0].modules,
        fetches=spec.fetches,
        keep_rows=spec.result is not None,
        row_format=config.result_format,
        row_header=config.append_row_header,
        row_options=config.append_row_csv_options or {},
        logging_level=config.logging_level,
        run_invocation_timeout=config.run_invocation_timeout,
        init_timeout=config.init_timeout,
        process_memory_limit=config.memory_limit_bytes,
    )
