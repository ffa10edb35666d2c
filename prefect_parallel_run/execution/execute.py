"""One execution of a run: opens the cluster and dispatches until every mini-batch has its final outcome."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from prefect_parallel_run._threads import CheckCancelled, begin, chain_checks
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.compute.base import Cluster, Request, Target
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.dispatch.autoscaler import Autoscaler, NodeBounds
from prefect_parallel_run.dispatch.dispatcher import Dispatcher, DispatchInputs
from prefect_parallel_run.dispatch.node_setup import NodeSpec, RemoteSetup
from prefect_parallel_run.dispatch.pacing import RetryDelay
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.models import PendingWork
from prefect_parallel_run.node.cores import user_limits
from prefect_parallel_run.node.remote_setup import PreflightRequest, make_bundle
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
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.planning.plan import Plan, PlanReader
from prefect_parallel_run.planning.planner import Planner
from prefect_parallel_run.runs.commands import PROCESSES
from prefect_parallel_run.runs.create import RunSelection, complete_description
from prefect_parallel_run.runs.events import Emit, ExecutionEnded, Noted, RunStarted, Warned
from prefect_parallel_run.runs.executions import Overrides
from prefect_parallel_run.runs.fingerprint import source_tree
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, failure_limits, table_versions
from prefect_parallel_run.storage.objects import file_sha256

_MAX_LEASE_BYTES = 2_000_000  #: bytes of work descriptions in one message
_MAX_PER_LEASE = 1_000
_OPENING_POLL_INTERVAL = 0.25  #: s between two cancellation checks while the cluster opens
_PLANNING_POLL_INTERVAL = 0.02  #: s between two polls of a plan without mini-batches
_PLANNING_PATIENCE = 0.1  #: s
_UNBOUNDED = 1 << 30  #: no upper bound on a node's slots


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRun:
    """A run that this process executes; it holds the run's lock."""

    spec: StepSpec
    selection: RunSelection
    ledger: Ledger
    execution: int  #: number of this execution, from 1
    control: Control
    emit: Emit
    check_cancelled: CheckCancelled  #: also applies new control commands

    @property
    def directory(self) -> RunDirectory:
        """Return the run directory."""
        return self.selection.directory


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The mini-batches of an execution."""

    plan: PlanReader
    pending: PendingWork
    column_checker: ColumnChecker | None  #: for a result whose rows must have the same columns


class ClusterStartup:
    """Opens a cluster in the background, on demand. On exit, closes it; after an error, kills its workers first."""

    def __init__(self, target: Target, spec: StepSpec) -> None:
        config = spec.config
        self._cancelled = threading.Event()
        self._settings: Future[NodeSettings] = Future()
        request = Request(
            nodes=config.node_count,
            at_least=config.min_nodes,
            slots=config.process_count_per_node,
            timeout=config.node_start_timeout,
            dashboard=config.dashboard,
        )
        self._context = target.open(request, self._cancelled, self._settings)
        self._opened: Future[Cluster] | None = None

    def __enter__(self) -> ClusterStartup:
        return self

    def start(self) -> Future[Cluster]:
        """Start opening the cluster if it is not already opening."""
        if self._opened is None:
            self._opened = begin(self._context.__enter__, name="open-cluster")
        return self._opened

    def prepare(self, settings: NodeSettings) -> None:
        """Let nodes start their children while the cluster opens."""
        self.start()
        self._settings.set_result(settings)

    def wait(self, check_cancelled: CheckCancelled) -> Cluster:
        """Wait for the open cluster; *check_cancelled* is called meanwhile."""
        opened = self.start()
        while not wait_for([opened], timeout=_OPENING_POLL_INTERVAL).done:
            check_cancelled()
        return opened.result()

    @property
    def cluster(self) -> Cluster | None:
        """Return the cluster if it is open."""
        is_open = self._opened is not None and self._opened.done() and self._opened.exception() is None
        return self._opened.result() if is_open and self._opened is not None else None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._cancelled.set()
        if self._opened is None or self._opened.exception() is not None:
            return
        if kind is not None:
            self._opened.result().abandon()
        self._context.__exit__(None, None, None)


def execute(run: ActiveRun, startup: ClusterStartup) -> None:
    """Run all mini-batches without a final outcome, including those that are planned meanwhile."""
    if run.selection.granted == 0:
        run.emit(Warned("nothing to retry: the only failures are rows that run() did not return"))
    adjustments = Overrides.of_metadata(run.ledger.metadata())
    run = replace(run, spec=replace(run.spec, config=adjustments.of(run.spec.config)))
    config, planner = run.spec.config, run.selection.planner
    run.ledger.fail_exhausted(config.run_max_try, isolate=config.isolate_failed_items)
    if planner is not None:
        startup.start()
    plan, pending = _load_plan(run.directory, planner, run.ledger, run.check_cancelled)
    if planner is None and pending.tally.finished == pending.tally.planned:
        return  # only the reduction is left
    if not pending.tally.is_growing:
        complete_description(run.directory, planner)
    work = _Work(plan=plan, pending=pending, column_checker=_column_checker(run, plan))
    most_slots = _UNBOUNDED if pending.tally.is_growing else pending.tally.planned - pending.tally.finished
    settings = node_settings(run.spec, run.directory, run.execution, most_slots)
    startup.prepare(settings)
    cluster = startup.wait(run.check_cancelled)
    if PROCESSES not in adjustments.changes:  # otherwise a command set them
        settings = settings.with_node(slots=cluster.slots)
    settings = settings.with_node(cores=cluster.cores)
    run.emit(RunStarted(run.directory, pending.tally, cluster.dashboard))
    for name, version in table_versions(run.directory.metadata()["inputs"]).items():
        run.emit(Noted(f"{name}: reading version {version} of the table"))
    if isinstance(run.spec.interpreter, EnvironmentPlan):
        run.emit(Noted("building the script's environment on nodes that do not have it cached; this may take minutes"))
    try:
        _dispatch(run, work, cluster, settings)
    finally:
        run.emit(ExecutionEnded(run.ledger.tally()))


def _dispatch(run: ActiveRun, work: _Work, cluster: Cluster, settings: NodeSettings) -> None:
    """Run the mini-batches on the open cluster."""
    planner, plan = run.selection.planner, work.plan
    warnings = _PlanningWarnings(run.directory, planner, run.emit)
    check = run.selection.check
    check_cancelled = chain_checks(run.check_cancelled, *([check.raise_if_failed] if check is not None else []))
    policy = _scheduling_policy(run.spec, plan, cluster)
    with ExitStack() as stack:
        remote_setup = None
        if not cluster.is_here:
            settings, remote_setup = _prepare_remote(run.spec, run.directory, settings, plan, check_cancelled)
            stack.callback(remote_setup.clean_up)
        dispatched = DispatchInputs(
            plan=plan,
            ledger=run.ledger,
            state=RunState(policy, work.pending, lambda index: plan.items(index, index + 1)[0]),
            planner=planner if work.pending.tally.is_growing else None,
            commands=run.control.events,
            check_rows=work.column_checker.check if work.column_checker is not None else None,
        )
        nodes = NodeSpec(settings=settings, at_most=run.spec.config.node_count, remote=remote_setup)
        autoscaler = _autoscaler(run.spec.config, cluster, run.emit)
        Dispatcher(cluster, nodes, dispatched, run.emit, chain_checks(check_cancelled, warnings.log), autoscaler).run()
        warnings.log()  # planning may have ended after the last check


class _PlanningWarnings:
    """Logs the warnings of planning once it is complete."""

    def __init__(self, directory: RunDirectory, planner: Planner | None, emit: Emit) -> None:
        self._directory, self._planner, self._emit = directory, planner, emit
        self._are_logged = False

    def log(self) -> None:
        if self._are_logged or not (self._planner is None or self._planner.is_over()):
            return
        self._are_logged = True
        summary = Plan(self._directory.plan).summary if self._planner is None else self._planner.summary()
        for note in summary.notes:
            self._emit(Warned(note))


def _load_plan(
    directory: RunDirectory, planner: Planner | None, ledger: Ledger, check_cancelled: CheckCancelled
) -> tuple[PlanReader, PendingWork]:
    """Return the plan and its pending work; with a planner, as soon as there is some."""
    if planner is not None:
        is_growing = _await_plan(planner, ledger, check_cancelled)
        return planner.plan, ledger.pending_work(is_growing=is_growing)
    plan = Plan(directory.plan)
    ledger.extend(islice(plan.all_items(), ledger.planned(), None))  # the last execution may have ended just after planning
    return plan, ledger.pending_work()


def _scheduling_policy(spec: StepSpec, plan: PlanReader, cluster: Cluster) -> SchedulingPolicy:
    config = spec.config
    return SchedulingPolicy(
        run_max_try=config.run_max_try,
        limits=failure_limits(config),
        retry_delay=RetryDelay(
            seconds=config.retry_delay_seconds, backoff=config.retry_backoff_factor, jitter=config.retry_jitter_factor
        ),
        per_minute=config.mini_batches_per_minute,
        max_per_lease=max(1, min(_MAX_PER_LEASE, _MAX_LEASE_BYTES // plan.typical_bytes())),
        isolate=config.isolate_failed_items,
        speculative=config.speculative_execution,
        fetches=spec.fetches,
        shared_workers=not cluster.is_here,
        fills_nodes=cluster.is_elastic,
    )


def _autoscaler(config: ParallelRunConfig, cluster: Cluster, emit: Emit) -> Autoscaler | None:
    """Return the autoscaler of a cluster; None for one that cannot grow and shrink."""
    if not cluster.is_elastic:
        return None
    bounds = NodeBounds(at_least=config.min_nodes or config.node_count, at_most=config.node_count)
    return Autoscaler(bounds, cluster.scale, cluster.release, lambda text: emit(Warned(text)))


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


def _column_checker(run: ActiveRun, plan: PlanReader) -> ColumnChecker | None:
    """Return the checker for a result whose rows must have the same columns; raises if rows of earlier executions differ."""
    if run.spec.result is None or not OUTPUT_FORMATS[run.spec.config.result_format].has_one_schema:
        return None
    return ColumnChecker(run.directory, plan, run.ledger, run.spec.result)


def node_settings(spec: StepSpec, directory: RunDirectory, execution: int, most_slots: int) -> NodeSettings:
    """Return the settings of nodes of this machine for an execution of the run in *directory*."""
    config = spec.config
    return NodeSettings(
        token=uuid.uuid4().hex,
        node=NodeOptions(
            slots=config.process_count_per_node,
            threads=config.threads_per_process,
            thread_variables=user_limits(os.environ),
            most_slots=most_slots,
        ),
        run=RunContext(execution=execution, directory=str(directory.path), run_id=directory.run_id, step=spec.name),
        interpreter=InterpreterSettings(source=spec.interpreter, variables=dict(config.environment_variables)),
        script=ScriptSettings(
            path=str(config.script_path),
            function=config.entry_function or "",
            hooks=spec.hooks,
            source=str(config.source_path),
            arguments=spec.parameters.arguments,
            output=spec.output or "",
            side_inputs=dict(spec.parameters.side_inputs),
            models=dict(config.models),
            logging_level=config.logging_level,
        ),
        items=ItemSettings(modules=spec.datasets[0].modules, fetches=spec.fetches),
        rows=RowSettings(
            keep=spec.result is not None,
            format=config.result_format,
            header=config.append_row_header,
            csv_options=config.append_row_csv_options or {},
            input_columns=tuple(config.append_row_input_columns or ()),
        ),
        limits=ProcessLimits(
            run_invocation_timeout=config.run_invocation_timeout,
            init_timeout=config.init_timeout,
            memory=config.memory_limit_bytes,
        ),
    )


def _prepare_remote(
    spec: StepSpec, directory: RunDirectory, settings: NodeSettings, plan: PlanReader, check_cancelled: CheckCancelled
) -> tuple[NodeSettings, RemoteSetup]:
    """Return settings for nodes that may be on other machines, and what these nodes must check and receive.

    With a source_directory, every node runs the bundled copy, so edits during the run have no effect. Without one, a node
    that can access the same script runs it in place, next to the other files there.

    Raises:
        ValueError: The script's code cannot be bundled.
    """
    bundle = make_bundle(source_tree(spec.config), directory.path, check_cancelled)
    mark = f".seen-{settings.token}"
    (directory.path / mark).write_text(mark)
    preflight = PreflightRequest(
        run_directory=str(directory.path),
        mark=mark,
        places=(*spec.places, *_first_file(plan, has_any=settings.node.most_slots > 0)),
        script=settings.script.path,
        script_sha256="" if spec.config.source_directory is not None else file_sha256(spec.config.script_path),
        bundle=bundle.sha256,
    )
    script = replace(settings.script, bundle=bundle)
    return replace(settings, script=script).with_node(is_kept=True), RemoteSetup(
        preflight=preflight, bundle=directory.path / bundle.file_name, mark=directory.path / mark
    )


def _first_file(plan: PlanReader, *, has_any: bool) -> tuple[tuple[str, str], ...]:
    """Return one planned file to check: a folder with the right name may have other contents."""
    if not has_any:
        return ()
    work = json.loads(plan.works(0, 1)[0])
    table = work["tables"][0] if "tables" in work else work
    path = f"{work['root']}{work['names'][0]}" if "names" in work else str(table["path"])
    exists = not is_remote(path) and Path(path).exists()  # deleted since planning: its mini-batch will fail
    return (("input", path),) if exists else ()
