"""One run of a step, from its inputs to its result. Knows nothing of Prefect: step.py and the command line sit on top."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from prefect_parallel_run.compute.base import Cluster, Target
from prefect_parallel_run.dispatch.dispatcher import Dispatcher, Observer
from prefect_parallel_run.dispatch.state import RunRules, RunState
from prefect_parallel_run.errors import (
    EntryScriptError,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
)
from prefect_parallel_run.identity import world
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.output.reduction import Reduction
from prefect_parallel_run.planning import Plan, write_plan
from prefect_parallel_run.records import Tally
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.run_choice import Resumption, discard, find_or_make, take_up
from prefect_parallel_run.run_directory import RunDirectory, read_json, runs_below
from prefect_parallel_run.spec import StepSpec, failure_limits

_MOST_LEASE_BYTES = 2_000_000  #: of work texts in one message
_MOST_PER_LEASE = 5_000
_OPENING_GLANCE = 0.25  #: s between two looks at a cluster that opens
_NODE_PATIENCE = 60.0  #: s without any node before a run gives up; Prefect's retry then opens a new cluster


class Watch(Observer, Protocol):
    """Who is told what happens in a run, beyond what the dispatcher tells."""

    def began(self, run: RunDirectory, tally: Tally, dashboard: str) -> None:
        """The first mini-batches are about to be handed out; *tally* is not empty when the run goes on from its ledger."""

    def ended(self, ledger: Ledger) -> None:
        """The run is over, well or not; the ledger has the last word."""


def run_step(
    spec: StepSpec,
    target: Target,
    watch: Watch,
    heartbeat: Callable[[], None],
    reduce: Callable[[Reduction], dict[str, Any]],
    resumption: Resumption | None = None,
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

    Raises:
        InputChangedError: The run directory to go on with was planned for something else.
        RunLockedError: Another process drives it.
    """
    started = time.monotonic()
    with ExitStack() as locks, _Opening(target, spec, heartbeat) as cluster:  # the lock outlives the cluster
        if resumption is None and not (spec.allow_reuse and any(runs_below(spec.runs, f"{spec.name}-"))):
            cluster.begin()  # meanwhile the input is planned
        planned = _plan(spec, heartbeat)
        try:
            now = world(
                spec.config,
                plan_sha256=Plan.open(planned).summary.sha256,
                arguments=list(spec.arguments),
                side_inputs=dict(spec.side_inputs),
                key=spec.key,
            )
            if resumption is None:
                directory, lock = find_or_make(spec, now, planned)
            else:
                directory, lock = take_up(spec, now, planned, resumption)
        except BaseException:
            discard(planned)
            raise
        if lock is None:
            return _result(spec, directory, read_json(directory.receipt), started, reused=True)
        locks.enter_context(lock)
        with Ledger(directory.ledger) as ledger:
            try:
                _drive(spec, directory, ledger, cluster, watch, heartbeat)
                _warn_of_replacing(spec, directory, watch)
                reduction = Reduction(
                    directory=directory,
                    limits=failure_limits(spec.config),
                    target=spec.target,
                    row_format=spec.config.result_format,
                    identity=now["identity"],
                    output=spec.output,
                    heartbeat=heartbeat,
                )
                receipt = reduce(reduction)
            except BaseException as error:
                _note_end(ledger, error)
                raise
            ledger.note(status="succeeded", reason="")
        return _result(spec, directory, receipt, started, reused=False)


def _warn_of_replacing(spec: StepSpec, directory: RunDirectory, watch: Watch) -> None:
    """Tell when the result file is that of another step, or of other inputs."""
    if spec.target is None or not spec.target.exists():
        return
    prefix = directory.run_id.rpartition("-")[0].rpartition("-")[0]  # without time and token: the same step again
    for other in runs_below(spec.runs, ""):
        if not other.run_id.startswith(prefix) and other.receipt.exists():
            if read_json(other.receipt)["output_file"] == str(spec.target):
                watch.warned(
                    f"{spec.target} is the result of run {other.run_id}, and is replaced; give each step its own output"
                )
            return


def _note_end(ledger: Ledger, error: BaseException) -> None:
    """Note why a run ended. Where even that cannot be written, the first error is the one to tell."""
    status = "interrupted" if isinstance(error, Exception) else "cancelled"
    if isinstance(error, LimitExceededError | NothingSucceededError | EntryScriptError):
        status = "failed"  # by itself: going on would only end the same way
    with suppress(OutputError):
        ledger.note(status=status, reason=str(error) or type(error).__name__)


class _Opening:
    """A cluster that opens in the background while the input is planned."""

    def __init__(self, target: Target, spec: StepSpec, heartbeat: Callable[[], None]) -> None:
        config = spec.config
        self._cancelled = threading.Event()
        self._context = target.open(config.node_count, config.process_count_per_node, self._cancelled)
        self._opened: Future[Cluster] | None = None
        self._heartbeat = heartbeat

    def __enter__(self) -> _Opening:
        return self

    def begin(self) -> Future[Cluster]:
        """Start opening, if that has not begun."""
        if self._opened is None:
            with_thread = ThreadPoolExecutor(1, thread_name_prefix="open-cluster")
            self._opened = with_thread.submit(self._context.__enter__)
            with_thread.shutdown(wait=False)
        return self._opened

    def wait(self) -> Cluster:
        """Return the open cluster."""
        opened = self.begin()
        while not wait_for([opened], timeout=_OPENING_GLANCE).done:
            self._heartbeat()
        return opened.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._cancelled.set()
        if self._opened is None or self._opened.exception() is not None:
            return
        if kind is not None:
            self._opened.result().abandon()
        self._context.__exit__(None, None, None)


def _plan(spec: StepSpec, heartbeat: Callable[[], None]) -> Path:
    """Plan the input into a folder of its own and return the plan's path."""
    folder = spec.runs / f".planning-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(str(spec.runs), f"cannot be created: {error.strerror}") from error
    path = folder / "plan.parquet"
    try:
        size = spec.config.mini_batch_size_for(spec.datasets[0].kind)
        write_plan(spec.datasets, size, path, spec.config.partition_keys, spec.runs / "partitions", heartbeat)
    except BaseException:
        discard(path)
        raise
    return path


def _drive(
    spec: StepSpec,
    directory: RunDirectory,
    ledger: Ledger,
    cluster: _Opening,
    watch: Watch,
    heartbeat: Callable[[], None],
) -> None:
    """Run what the ledger says is left to do."""
    ledger.exhaust(spec.config.run_max_try, isolate=spec.config.isolate_failed_items)
    remainder = ledger.remainder()
    if remainder.tally.finished == remainder.tally.planned:
        return  # only the reduction was missing
    plan = Plan.open(directory.plan)
    config = spec.config
    before = ledger.facts()
    drive = int(before.get("drives", "0")) + 1
    tries = max(config.run_max_try, int(before.get("run_max_try", "0")))
    ledger.note(status="running", drives=str(drive), run_max_try=str(tries))
    rules = RunRules(
        run_max_try=config.run_max_try,
        limits=failure_limits(config),
        retry_delay=config.retry_delay_seconds,
        most_per_lease=_most_per_lease(directory.plan, remainder.tally.planned),
        node_patience=_NODE_PATIENCE,
        isolate=config.isolate_failed_items,
    )
    state = RunState(rules, remainder, lambda index: plan.items(index, index + 1)[0])
    opened = cluster.wait()
    settings = _node_settings(spec, directory, drive, opened.slots, remainder.tally)
    watch.began(directory, remainder.tally, opened.dashboard)
    try:
        Dispatcher(opened.client, settings, plan, ledger, state, watch, heartbeat, opened.discard).run()
    finally:
        watch.ended(ledger)


def _most_per_lease(plan: Path, mini_batches: int) -> int:
    """Return how many mini-batches fit into one message, going by the size of the plan on disk."""
    typical = max(10 * plan.stat().st_size // mini_batches, 1)  # compressed to a tenth, at best
    return max(1, min(_MOST_PER_LEASE, _MOST_LEASE_BYTES // typical))


def _node_settings(spec: StepSpec, directory: RunDirectory, drive: int, slots: int | None, tally: Tally) -> NodeSettings:
    config = spec.config
    return NodeSettings(
        token=uuid.uuid4().hex,
        drive=drive,
        slots=slots,
        most_slots=tally.planned - tally.finished,
        interpreter=spec.interpreter,
        script=str(config.script_path),
        source=str(config.source_path),
        arguments=spec.arguments,
        output=str(spec.output) if spec.output is not None else "",
        side_inputs=dict(spec.side_inputs),
        environment_variables=dict(config.environment_variables),
        run_directory=str(directory.path),
        keep_rows=spec.target is not None,
        row_format=config.result_format,
        row_header=config.append_row_header,
        logging_level=config.logging_level,
        run_invocation_timeout=config.run_invocation_timeout,
        init_timeout=config.init_timeout,
        process_memory_limit=config.memory_limit_bytes,
    )


def _result(
    spec: StepSpec, directory: RunDirectory, receipt: dict[str, Any], started: float, *, reused: bool
) -> ParallelRunResult:
    items, mini_batches = receipt["items"], receipt["mini_batches"]
    limits = failure_limits(spec.config)
    return ParallelRunResult(
        name=spec.name,
        run_id=directory.run_id,
        output=str(spec.output) if spec.output is not None else None,
        output_file=receipt["output_file"],
        output_format=spec.config.result_format if spec.target is not None else None,
        run_directory=str(directory.path),
        receipt=str(directory.receipt),
        mini_batches_total=mini_batches["total"],
        mini_batches_succeeded=mini_batches["succeeded"],
        mini_batches_failed=mini_batches["failed"],
        items_total=items["total"],
        items_succeeded=items["succeeded"],
        items_failed=items["failed"],
        rows=receipt["rows"],
        seconds=time.monotonic() - started,
        limits={
            "error_threshold": limits.error_threshold,
            "allowed_failed_count": limits.allowed_failed_count,
            "allowed_failed_percent": limits.allowed_failed_percent,
        },
        reused=reused,
    )
