"""One run of a step, from its inputs to its result. Knows nothing of Prefect: step.py and the command line sit on top."""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, Protocol

from prefect_parallel_run.adjustments import FACT, Adjustments
from prefect_parallel_run.background import Background, Unwanted
from prefect_parallel_run.compute.base import Cluster, Request, Target
from prefect_parallel_run.config import ParallelRunConfig
from prefect_parallel_run.control import Control, Told
from prefect_parallel_run.dispatch.dispatcher import Dispatcher
from prefect_parallel_run.dispatch.elasticity import Elasticity
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.state import RunRules, RunState
from prefect_parallel_run.drives import note_drive_begin, note_drive_end
from prefect_parallel_run.errors import (
    EntryScriptError,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
)
from prefect_parallel_run.inputs import check_models
from prefect_parallel_run.journey import prepare_journey
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.observe.report import write_report
from prefect_parallel_run.orders import PROCESSES
from prefect_parallel_run.output.reduction import Reduction
from prefect_parallel_run.plan import Plan, PlanReader
from prefect_parallel_run.planner import Planner
from prefect_parallel_run.policy.node_count import NodeBounds
from prefect_parallel_run.records import Tally
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.run_choice import (
    Choice,
    Look,
    Resumption,
    complete_description,
    find_or_make,
    look_for_earlier,
    may_be_done,
    take_up,
    world_of,
)
from prefect_parallel_run.run_directory import FOLDER, RunDirectory, read_json, runs_below
from prefect_parallel_run.spec import StepSpec, failure_limits
from prefect_parallel_run.stores.mirror import Mirror, is_copied
from prefect_parallel_run.stores.objects import names_below, read, size_of

_MOST_LEASE_BYTES = 2_000_000  #: of work texts in one message
_MOST_PER_LEASE = 1_000
_OPENING_GLANCE = 0.25  #: s between two looks at a cluster that opens
_PLANNING_GLANCE = 0.02  #: s between two looks at a plan that has no mini-batch yet
_PLANNING_PATIENCE = 0.1  #: s
_ANY = 1 << 30  #: slots: as many as the node wants
_REPORT_IF_FAILED = 20.0  #: s for the report of a run that has ended before its time
_REPORT_IF_CANCELLED = 1.0  #: s, the same: whoever cancels does not want to wait
_NODE_PATIENCE = 60.0  #: s without any node before a run gives up; Prefect's retry then opens a new cluster


class Watch(Observer, Told, Protocol):
    """Who is told what happens in a run, beyond what the dispatcher and people's orders tell."""

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """The first mini-batches are about to be handed out; *tally* is not empty when the run goes on from its ledger."""

    def ended(self, ledger: Ledger) -> None:
        """Nothing runs any more, well or not; the ledger has the last word on every mini-batch."""

    def closed(self, status: str, reason: str) -> None:
        """The run is over: its result is published, or will not be.

        Args:
            status: succeeded, failed, interrupted or cancelled.
            reason: Why it is not succeeded.
        """


def run_step(
    spec: StepSpec,
    target: Target,
    watch: Watch,
    heartbeat: Callable[[], None],
    reduce: Callable[[Reduction], dict[str, Any]],
    resumption: Resumption | None = None,
    look: Look | None = None,
) -> ParallelRunResult:
    """Run a step and return its result.

    An unfinished run of the same identity in the same output is gone on with; a finished one is returned as it is when
    *spec* allows reuse and its result is unaltered.

    Args:
        spec: What to do.
        target: Where.
        watch: Who is told.
        heartbeat: Called several times a second; raises to stop the run.
        reduce: Carries out the final reduction (in Prefect: as a task run of its own).
        resumption: Go on with this run directory, and with no other.
        look: What there is of the step already, where that has been looked for.

    Raises:
        InputError: A model of the configuration does not exist.
        InputChangedError: The run directory to go on with was planned for something else.
        RunLockedError: Another process drives it.
    """
    started = time.monotonic()
    check_models(spec.config.models)
    with ExitStack() as stack, _Opening(target, spec) as cluster:  # the lock outlives the cluster
        if resumption is not None:
            choice = take_up(spec, world_of(spec), resumption, heartbeat)
        else:
            if not (may_be_done(spec) if look is None else look.reusable):
                cluster.begin()  # meanwhile script and input are looked at
            choice = find_or_make(spec, look or look_for_earlier(spec, heartbeat), heartbeat)
        stack.callback(choice.close)
        directory = choice.directory
        mirror = None if spec.store is None else Mirror(directory, spec.place_of(directory), watch.warned)
        if choice.lock is None:
            if mirror is not None and not is_copied(directory):
                _bring_up(mirror, directory, heartbeat, stack)
            return earlier_result(spec, directory, resumption)
        beat = heartbeat if mirror is None else _both(heartbeat, mirror.raise_if_lost)
        if mirror is not None:
            stack.callback(mirror.close)
        with Ledger(directory.ledger) as ledger:
            try:
                drive = _count_drive(ledger, spec)  # before anything of it goes up
                if resumption is not None and resumption.given:
                    Adjustments.of_ledger(ledger).without(resumption.given).note(ledger)
                control = Control(directory, choice.lock.driver, ledger, spec.config, watch)
                if mirror is not None:
                    Background("mirror", mirror.begin).wait(heartbeat)
                _drive(spec, choice, ledger, drive, cluster, watch, _both(beat, control.listen), control)
                control.end("every mini-batch is done, and the result is being put together")
                receipt = reduce(_reduction(spec, choice, ledger, watch, _both(beat, control.listen)))
            except BaseException as error:
                watch.closed(*_note_end(ledger, error))
                if ledger.is_untouched() and not directory.plan.exists():
                    _remove_what_never_began(directory, mirror, stack)
                else:
                    seconds = _REPORT_IF_FAILED if isinstance(error, Exception) else _REPORT_IF_CANCELLED
                    stack.callback(_report_in_time, directory, watch, seconds)  # once the cluster is gone
                raise
            ledger.note(status="succeeded", reason="")
            note_drive_end(ledger, "succeeded", "")
            watch.closed("succeeded", "")
            _report(directory, watch, beat)
        if mirror is not None:
            _bring_up(mirror, directory, beat, stack)
        return _result(_as_adjusted(spec, receipt), directory, receipt, time.monotonic() - started, reused=False)


def _as_adjusted(spec: StepSpec, receipt: dict[str, Any], resumption: Resumption | None = None) -> StepSpec:
    """Return *spec* as it was changed while the run with this receipt went on."""
    given = resumption.given if resumption is not None else ()
    return replace(spec, config=Adjustments.of_receipt(receipt).without(given).of(spec.config))


def earlier_result(spec: StepSpec, directory: RunDirectory, resumption: Resumption | None = None) -> ParallelRunResult:
    """Return the result of a finished run as that of *spec*: nothing ran, which took no time."""
    receipt = read_json(directory.receipt)
    return _result(_as_adjusted(spec, receipt, resumption), directory, receipt, 0.0, reused=True)


def _remove_what_never_began(directory: RunDirectory, mirror: Mirror | None, stack: ExitStack) -> None:
    """Have a run directory without plan and tries removed at the end, here and in the store."""
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)
    if mirror is not None:
        stack.callback(mirror.discard)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def beat() -> None:
        first()
        second()

    return beat


def _bring_up(mirror: Mirror, directory: RunDirectory, heartbeat: Callable[[], None], stack: ExitStack) -> None:
    """Have the copy of a finished run made whole, and the one on this machine removed at the end."""
    Background("mirror", mirror.finish).wait(heartbeat)
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)


def _count_drive(ledger: Ledger, spec: StepSpec) -> int:
    """Note that the run is driven once more, and return how often that makes."""
    before = ledger.facts()
    drive = int(before.get("drives", "0")) + 1
    tries = max(spec.config.run_max_try, int(before.get("run_max_try", "0")))
    ledger.note(status="running", drives=str(drive), run_max_try=str(tries), paused="0")  # a pause ends with its driving
    note_drive_begin(ledger, drive, spec.config)
    return drive


def _report(directory: RunDirectory, watch: Watch, heartbeat: Callable[[], None]) -> None:
    """Write report.html; a run does not fail for it."""

    def work(beat: Callable[[], None]) -> str:
        try:
            write_report(directory, beat=beat)
        except Exception as error:  # noqa: BLE001  whatever it was: it is told, and the run's own end counts
            return f"{type(error).__name__}: {error}"
        return ""

    if trouble := Background("report", work).wait(heartbeat):
        watch.warned(f"the report could not be written: {trouble}; prefect-parallel-run report {directory.path} writes it")


def _report_in_time(directory: RunDirectory, watch: Watch, seconds: float) -> None:
    """Write report.html of a run that has ended before its time, unless that takes longer than *seconds*."""
    deadline = time.monotonic() + seconds

    def beat() -> None:
        if time.monotonic() > deadline:
            raise Unwanted

    try:
        _report(directory, watch, beat)
    except Unwanted:
        watch.warned(f"the report would take longer than {seconds:g} s; prefect-parallel-run report {directory.path} writes it")


def _reduction(spec: StepSpec, choice: Choice, ledger: Ledger, watch: Watch, heartbeat: Callable[[], None]) -> Reduction:
    """Return what the final reduction needs to know, once the inputs are known to be the planned ones."""
    if choice.check is not None:
        choice.check.wait(heartbeat)
    _warn_of_replacing(spec, choice.directory, watch)
    adjustments = Adjustments.of_ledger(ledger)
    return Reduction(
        directory=choice.directory,
        limits=failure_limits(adjustments.of(spec.config)),
        notes={FACT: adjustments.to_facts()} if adjustments else {},
        target=spec.target_of(choice.directory),
        result=spec.result,
        row_format=spec.config.result_format,
        identity=complete_description(choice.directory, choice.planner)["identity"],
        output=spec.output,
        heartbeat=heartbeat,
    )


def _warn_of_replacing(spec: StepSpec, directory: RunDirectory, watch: Watch) -> None:
    """Tell when the result file is that of another step, or of other inputs."""
    if spec.result is None or size_of(spec.result) is None:
        return
    prefix = directory.run_id.rpartition("-")[0].rpartition("-")[0]  # without time and token: the same step again
    for run_id, receipt in _receipts(spec):
        if not run_id.startswith(prefix):
            if receipt["output_file"] == spec.result:
                watch.warned(f"{spec.result} is the result of run {run_id}, and is replaced; give each step its own output")
            return


def _receipts(spec: StepSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and receipt of the finished runs of an output, the newest first."""
    if spec.store is None:
        for found in runs_below(spec.runs, ""):
            if found.receipt.exists():
                yield found.run_id, read_json(found.receipt)
        return
    copies = f"{spec.store}/{FOLDER}"
    for name in sorted(names_below(copies), key=lambda name: name.rsplit("-", 2)[1:], reverse=True):  # by time
        with suppress(FileNotFoundError):  # not finished
            yield name.rstrip("/"), json.loads(read(f"{copies}/{name}receipt.json"))


def _note_end(ledger: Ledger, error: BaseException) -> tuple[str, str]:
    """Note, and return, how and why a run ended. Where even that cannot be written, the first error is the one to tell."""
    status = "interrupted" if isinstance(error, Exception) else "cancelled"
    if isinstance(error, LimitExceededError | NothingSucceededError | EntryScriptError):
        status = "failed"  # by itself: going on would only end the same way
    reason = str(error) or type(error).__name__
    with suppress(OutputError):
        ledger.note(status=status, reason=reason)
        note_drive_end(ledger, status, reason)
    return status, reason


class _Opening:
    """A cluster that opens in the background while the input is planned."""

    def __init__(self, target: Target, spec: StepSpec) -> None:
        config = spec.config
        self._cancelled = threading.Event()
        self._settings: Future[NodeSettings] = Future()
        request = Request(
            nodes=config.node_count,
            at_least=config.min_nodes,
            slots=config.process_count_per_node,
            timeout=config.node_start_timeout,
        )
        self._context = target.open(request, self._cancelled, self._settings)
        self._opened: Future[Cluster] | None = None

    def __enter__(self) -> _Opening:
        return self

    def begin(self) -> Future[Cluster]:
        """Start opening, if that has not begun."""
        if self._opened is None:
            with_thread = ThreadPoolExecutor(1, thread_name_prefix="open-cluster")
            self._opened = with_thread.submit(self._context.__enter__)
            with_thread.shutdown(wait=False)
        return self._opened

    def prepare(self, settings: NodeSettings) -> None:
        """Let the nodes start their children while the cluster opens."""
        self.begin()
        self._settings.set_result(settings)

    def wait(self, heartbeat: Callable[[], None]) -> Cluster:
        """Return the open cluster."""
        opened = self.begin()
        while not wait_for([opened], timeout=_OPENING_GLANCE).done:
            heartbeat()
        return opened.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._cancelled.set()
        if self._opened is None or self._opened.exception() is not None:
            return
        if kind is not None:
            self._opened.result().abandon()
        self._context.__exit__(None, None, None)


def _drive(
    spec: StepSpec,
    choice: Choice,
    ledger: Ledger,
    drive: int,
    cluster: _Opening,
    watch: Watch,
    heartbeat: Callable[[], None],
    control: Control,
) -> None:
    """Run what the ledger says is left to do, and what is planned meanwhile."""
    adjustments = Adjustments.of_ledger(ledger)
    spec = replace(spec, config=adjustments.of(spec.config))
    config, directory, planner = spec.config, choice.directory, choice.planner
    ledger.exhaust(config.run_max_try, isolate=config.isolate_failed_items)
    if planner is None:
        whole = Plan.open(directory.plan)
        ledger.extend(islice(whole.all_items(), ledger.planned(), None))  # it may have ended just behind planning
        plan: PlanReader = whole
        remainder = ledger.remainder()
        if remainder.tally.finished == remainder.tally.planned:
            return  # only the reduction was missing
    else:
        cluster.begin()
        plan = planner.plan
        is_growing = _await_plan(planner, ledger, heartbeat)
        remainder = ledger.remainder(is_growing=is_growing)
    rules = RunRules(
        run_max_try=config.run_max_try,
        limits=failure_limits(config),
        retry_delay=config.retry_delay_seconds,
        most_per_lease=max(1, min(_MOST_PER_LEASE, _MOST_LEASE_BYTES // plan.typical_bytes())),
        node_patience=_NODE_PATIENCE,
        isolate=config.isolate_failed_items,
        speculative=config.speculative_execution,
        fetches=spec.fetches,
    )
    if not remainder.tally.is_growing:
        complete_description(directory, planner)
    settings = _node_settings(spec, directory, drive, remainder.tally)
    cluster.prepare(settings)
    opened = cluster.wait(heartbeat)
    rules = replace(rules, shared_workers=not opened.is_here)
    state = RunState(rules, remainder, lambda index: plan.items(index, index + 1)[0])
    if PROCESSES not in adjustments.changes:  # else they are what was ordered, not what the cluster was opened for
        settings = replace(settings, slots=opened.slots)
    watch.began(directory, remainder.tally, opened.dashboard)
    beat = heartbeat if choice.check is None else _both(heartbeat, choice.check.raise_if_failed)
    try:
        with ExitStack() as stack:
            journey = None
            if not opened.is_here:
                settings, journey = prepare_journey(spec, directory, settings, plan, heartbeat)
                stack.callback(journey.end)
            Dispatcher(
                opened.client,
                settings,
                plan,
                ledger,
                state,
                watch,
                beat,
                opened.discard,
                wanted=config.node_count,
                growth=planner if remainder.tally.is_growing else None,
                prepared=opened.prepared,
                journey=journey,
                elasticity=_elasticity(config, opened, watch.warned),
                orders=control.take,
            ).run()
    finally:
        watch.ended(ledger)


def _elasticity(config: ParallelRunConfig, cluster: Cluster, warned: Callable[[str], None]) -> Elasticity | None:
    """Return what makes a cluster grow and shrink, and replace nodes that were lost; None for one that cannot."""
    if not cluster.is_elastic:
        return None
    bounds = NodeBounds(at_least=config.min_nodes or config.node_count, at_most=config.node_count)
    return Elasticity(bounds, cluster.scale, cluster.release, warned)


def _await_plan(planner: Planner, ledger: Ledger, heartbeat: Callable[[], None]) -> bool:
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
        heartbeat()
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


def _result(
    spec: StepSpec, directory: RunDirectory, receipt: dict[str, Any], seconds: float, *, reused: bool
) -> ParallelRunResult:
    items, mini_batches = receipt["items"], receipt["mini_batches"]
    return ParallelRunResult(
        name=spec.name,
        run_id=directory.run_id,
        output=spec.output,
        output_file=receipt["output_file"],
        output_format=spec.result_format,
        run_directory=spec.place_of(directory),
        receipt=f"{spec.place_of(directory)}/{directory.receipt.name}",
        mini_batches_total=mini_batches["total"],
        mini_batches_succeeded=mini_batches["succeeded"],
        mini_batches_failed=mini_batches["failed"],
        items_total=items["total"],
        items_succeeded=items["succeeded"],
        items_failed=items["failed"],
        rows=receipt["rows"],
        seconds=seconds,
        limits=asdict(failure_limits(spec.config)),
        reused=reused,
    )
