"""One run of a step, from its inputs to its result. Independent of Prefect: step.py and the command line build on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background, Cancelled, CheckCancelled, cancelled_after, chain_checks, never_cancelled
from prefect_parallel_run.compute.base import Cluster, Target
from prefect_parallel_run.dispatch.worker_tasks import WorkerTasks
from prefect_parallel_run.errors import (
    EntryScriptError,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
    RowsDifferError,
)
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.execution.execute import ActiveRun, ClusterStartup, execute
from prefect_parallel_run.models import execution_prefix
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.output.part_writer import WriteParts, write_here, write_on_node, write_part
from prefect_parallel_run.output.reduction import Reduction, ResultFile
from prefect_parallel_run.planning.inputs import check_models
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.create import RunSelection, complete_description, step_of
from prefect_parallel_run.runs.events import Emit, Noted, RunFinished, Warned
from prefect_parallel_run.runs.executions import METADATA_KEY, Overrides, record_end, record_start
from prefect_parallel_run.runs.fingerprint import fingerprint_of
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import RunMirror, has_complete_copy
from prefect_parallel_run.runs.resolve import (
    ExistingRuns,
    ResumeRequest,
    find_existing_runs,
    get_or_create_run,
    has_existing_runs,
    resume_run,
)
from prefect_parallel_run.runs.run_directory import RunDirectory, parse_json, read_json, runs_below
from prefect_parallel_run.runs.spec import StepSpec, failure_limits, table_versions
from prefect_parallel_run.storage.objects import names_below, read
from prefect_parallel_run.storage.paths import RUNS_FOLDER
from prefect_parallel_run.storage.result_folder import check_replaceable, exists

_REPORT_IF_FAILED = 20.0  #: s to write the report of a run that failed
_REPORT_IF_CANCELLED = 1.0  #: s to write the report of a cancelled run: the user does not want to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """The functions that a run calls; Prefect's differ from those of the command line."""

    reduce: Callable[[Reduction], dict[str, Any]]  #: returns the receipt (in Prefect, a separate task run does)
    emit: Emit
    check_cancelled: CheckCancelled = never_cancelled  #: called several times a second


def run_step(
    spec: StepSpec, target: Target, callbacks: Callbacks, earlier: ResumeRequest | ExistingRuns | None = None
) -> ParallelRunResult:
    """Run a step and return its result.

    An unfinished run with the same fingerprint in the same output is resumed; a finished one is returned unchanged when
    *spec* allows reuse and its result is intact.

    Args:
        spec: Definition of the step.
        target: The compute target of the run.
        callbacks: The functions that the run calls.
        earlier: A request to resume exactly one run directory; or earlier runs of this step, if already known.

    Raises:
        InputError: A model of the configuration does not exist.
        OutputError: The result would replace a folder with other content.
        InputChangedError: The run directory to resume was planned for something else.
        RunLockedError: Another process is executing the run.
    """
    started = time.monotonic()
    check_models(spec.config.models)
    if spec.result is not None and (spec.store is None or spec.config.max_file_bytes is not None):
        check_replaceable(spec.result)
    given = earlier.given if isinstance(earlier, ResumeRequest) else frozenset()
    with ExitStack() as stack, ClusterStartup(target, spec) as startup:  # the lock outlives the cluster
        selection = _select_run(spec, startup, earlier, callbacks.check_cancelled)
        stack.callback(selection.close)
        runner = _Runner(spec, selection, callbacks, stack)
        if selection.lock is None:
            runner.complete_copy(only_if_missing=True)
            return earlier_result(spec, selection.directory, given)
        receipt = runner.run(startup, selection.lock.execution_id, given)
        runner.complete_copy()
        return _result(spec, selection.directory, receipt, time.monotonic() - started)


def _select_run(
    spec: StepSpec, startup: ClusterStartup, earlier: ResumeRequest | ExistingRuns | None, check_cancelled: CheckCancelled
) -> RunSelection:
    """Return the run directory to work in, locked unless its result can be returned."""
    if isinstance(earlier, ResumeRequest):
        return resume_run(spec, fingerprint_of(spec), earlier, check_cancelled)
    if not (has_existing_runs(spec) if earlier is None else earlier.reusable):
        startup.start()  # opens while script and input are checked
    return get_or_create_run(spec, earlier or find_existing_runs(spec, check_cancelled), check_cancelled)


class _Runner:
    """Executes the selected run of a step, and keeps its remote copy up to date.

    *stack* receives what remains to be done once the cluster is closed.
    """

    def __init__(self, spec: StepSpec, selection: RunSelection, callbacks: Callbacks, stack: ExitStack) -> None:
        self._spec, self._selection, self._directory, self._stack = spec, selection, selection.directory, stack
        self._reduce, self._emit, self._check_cancelled = callbacks.reduce, callbacks.emit, callbacks.check_cancelled
        self._mirror: RunMirror | None = None
        if spec.store is not None:
            location = spec.location_of(self._directory)
            self._mirror = RunMirror(self._directory, location, lambda text: callbacks.emit(Warned(text)))

    def run(self, startup: ClusterStartup, execution_id: str, given: frozenset[str]) -> dict[str, Any]:
        """Execute the run to its end and return the receipt; *given*: fields of the configuration that the user just set."""
        if self._mirror is not None:
            self._stack.callback(self._mirror.close)
            self._check_cancelled = chain_checks(self._check_cancelled, self._mirror.raise_if_lost)
        with Ledger(self._directory.ledger) as ledger:
            try:
                receipt = self._execute(ledger, startup, execution_id, given)
            except BaseException as error:
                self._emit(RunFinished(*_record_end(ledger, error)))
                self._clean_up(ledger, error)
                raise
            ledger.record(status="succeeded", reason="", ended_by="")
            record_end(ledger, "succeeded", "")
            self._emit(RunFinished("succeeded"))
            _report(self._directory, self._emit, self._check_cancelled)
        return receipt

    def complete_copy(self, *, only_if_missing: bool = False) -> None:
        """Complete the remote copy of a finished run, and delete the local one on exit."""
        if self._mirror is None or (only_if_missing and has_complete_copy(self._directory)):
            return
        Background("mirror", self._mirror.finish).wait(self._check_cancelled)
        self._stack.callback(shutil.rmtree, self._directory.path, ignore_errors=True)

    def _execute(self, ledger: Ledger, startup: ClusterStartup, execution_id: str, given: frozenset[str]) -> dict[str, Any]:
        execution = _begin_execution(self._directory, ledger, self._spec)  # before the mirror uploads anything
        if given:
            Overrides.of_metadata(ledger.metadata()).without(given).record(ledger)
        control = Control(self._directory, execution_id, ledger, self._spec.config, self._emit)
        if self._mirror is not None:
            Background("mirror", self._mirror.begin).wait(self._check_cancelled)
        run = ActiveRun(
            spec=self._spec,
            selection=self._selection,
            ledger=ledger,
            execution=execution,
            control=control,
            emit=self._emit,
            check_cancelled=chain_checks(self._check_cancelled, control.poll),
        )
        execute(run, startup)
        control.close("every mini-batch is done and the result is being assembled")
        return self._reduce(_reduction(run, startup.cluster))

    def _clean_up(self, ledger: Ledger, error: BaseException) -> None:
        """Once the cluster is closed: write the report of the unsuccessful run; delete a run without plan and attempts."""
        if not ledger.is_empty() or self._directory.plan.exists():
            seconds = _REPORT_IF_FAILED if isinstance(error, Exception) else _REPORT_IF_CANCELLED
            self._stack.callback(_report_in_time, self._directory, self._emit, seconds)
            return
        self._stack.callback(shutil.rmtree, self._directory.path, ignore_errors=True)
        if self._mirror is not None:
            self._stack.callback(self._mirror.discard)


def earlier_result(spec: StepSpec, directory: RunDirectory, given: Collection[str] = ()) -> ParallelRunResult:
    """Return the result of a finished run as the result of *spec*; *given* are fields that the user has just set."""
    return _result(spec, directory, read_json(directory.receipt), given=given)


def _begin_execution(directory: RunDirectory, ledger: Ledger, spec: StepSpec) -> int:
    """Record a new execution and return its number.

    An execution whose record was lost in a power cut may have left parts. Its number is not reused: a part is written once.
    """
    ledger.protect()
    before = ledger.metadata()
    execution = int(before.get("drives", "0")) + 1
    while any(directory.parts.glob(f"{execution_prefix(execution)}node-*")):
        execution += 1
    attempts = max(spec.config.run_max_try, int(before.get("run_max_try", "0")))
    # A pause ends with its execution, and the reason that the previous one ended is out of date.
    ledger.record(status="running", reason="", ended_by="", drives=str(execution), run_max_try=str(attempts), paused="0")
    record_start(ledger, execution, spec.config)
    return execution


def _report(directory: RunDirectory, emit: Emit, check_cancelled: CheckCancelled) -> None:
    """Write report.html; a failure is only a warning."""

    def work(check_cancelled: CheckCancelled) -> str:
        try:
            write_report(directory, check_cancelled=check_cancelled)
        except Exception as error:  # noqa: BLE001  any error becomes a warning; the run keeps its own outcome
            return f"{type(error).__name__}: {error}"
        return ""

    if problem := Background("report", work).wait(check_cancelled):
        emit(Warned(f"the report could not be written: {problem}; retry with prefect-parallel-run report {directory.path}"))


def _report_in_time(directory: RunDirectory, emit: Emit, seconds: float) -> None:
    """Write report.html of an unsuccessful run, unless that takes longer than *seconds*."""
    try:
        _report(directory, emit, cancelled_after(seconds))
    except Cancelled:
        command = f"prefect-parallel-run report {directory.path}"
        emit(Warned(f"skipped the report, which takes longer than {seconds:g} s; write it with {command}"))


def _reduction(run: ActiveRun, cluster: Cluster | None) -> Reduction:
    """Return the task of the final reduction, after the inputs were verified; *cluster* is open, unless nothing had to run."""
    spec, selection = run.spec, run.selection
    if selection.check is not None:
        selection.check.wait(run.check_cancelled)
    _warn_of_replacing(spec, run.directory, run.emit)
    adjustments = Overrides.of_metadata(run.ledger.metadata())
    description = complete_description(run.directory, selection.planner)
    notes: dict[str, Any] = {METADATA_KEY: adjustments.to_values()} if adjustments else {}
    if versions := table_versions(description["inputs"]):
        notes["table_versions"] = versions
    return Reduction(
        directory=run.directory,
        limits=failure_limits(adjustments.of(spec.config)),
        notes=notes,
        result=_result_file(spec, run.directory),
        identity=description["identity"],
        output=spec.output if spec.writes_output else None,
        check_cancelled=run.check_cancelled,
        write_parts=_part_writer(run, cluster),
    )


def _part_writer(run: ActiveRun, cluster: Cluster | None) -> WriteParts:
    """Return the function that has the parts of a result written: on the nodes that share the run directory, or else here.

    Nodes on other machines do not write to a store: they may have other credentials and endpoints than the flow process.
    """
    if cluster is None or (run.spec.store is not None and not cluster.is_here):
        return write_here
    return WorkerTasks(cluster, run.spec.config.node_count, write_on_node, write_part, run.emit).run


def _result_file(spec: StepSpec, directory: RunDirectory) -> ResultFile | None:
    if spec.result is None:
        return None
    # The local copy of a result in a store has a name that no file of the run has, regardless of the name in the configuration.
    path = Path(spec.result) if spec.store is None else directory.path / f".{spec.config.result_file_name}.result"
    options = spec.config.append_row_csv_options or {}
    return ResultFile(
        path=path,
        location=spec.result,
        format=spec.config.result_format,
        options=options,
        max_file_bytes=spec.config.max_file_bytes,
    )


def _warn_of_replacing(spec: StepSpec, directory: RunDirectory, emit: Emit) -> None:
    """Warn if the result of another step will be replaced; note it if it is of this step, with another fingerprint."""
    if spec.result is None or not exists(spec.result):
        return
    run_id = next((run_id for run_id, receipt in _receipts(spec) if receipt["output_file"] == spec.result), None)
    if run_id is None or _base_id(run_id) == _base_id(directory.run_id):
        return
    if step_of(run_id) != step_of(directory.run_id):
        emit(Warned(f"replacing {spec.result}, the result of run {run_id} of another step; give each step its own output"))
    else:
        emit(Noted(f"replacing {spec.result}, the result of run {run_id} of this step"))


def _base_id(run_id: str) -> str:
    """Return a run id without time and token: step name and fingerprint."""
    return run_id.rsplit("-", 2)[0]


def _receipts(spec: StepSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ids and receipts of the finished runs of an output, newest first."""
    if spec.store is None:
        for directory in runs_below(spec.runs, ""):
            if directory.receipt.exists():
                yield directory.run_id, read_json(directory.receipt)
        return
    copies = f"{spec.store}/{RUNS_FOLDER}"
    for name in sorted(names_below(copies), key=lambda name: name.rsplit("-", 2)[1:], reverse=True):  # by time
        url = f"{copies}/{name}receipt.json"
        with suppress(FileNotFoundError):  # not finished
            yield name.rstrip("/"), parse_json(read(url), url)


def _record_end(ledger: Ledger, error: BaseException) -> tuple[str, str]:
    """Record and return how and why a run ended. If recording fails too, the original error wins."""
    status = "interrupted" if isinstance(error, Exception) else "cancelled"
    if isinstance(error, LimitExceededError | NothingSucceededError | EntryScriptError | RowsDifferError):
        status = "failed"  # it would fail again unless script, input or limits change
    reason = str(error) or type(error).__name__
    with suppress(OutputError):
        ledger.record(status=status, reason=reason, ended_by=type(error).__name__)
        record_end(ledger, status, reason)
    return status, reason


def _result(
    spec: StepSpec,
    directory: RunDirectory,
    receipt: dict[str, Any],
    seconds: float | None = None,
    given: Collection[str] = (),
) -> ParallelRunResult:
    """Return the result of a run that took *seconds*; None if an earlier result is reused."""
    items, mini_batches = receipt["items"], receipt["mini_batches"]
    config = Overrides.of_receipt(receipt).without(given).of(spec.config)  # as commands changed it
    return ParallelRunResult(
        name=spec.name,
        run_id=directory.run_id,
        output=spec.output,
        output_file=receipt["output_file"],
        output_format=spec.result_format,
        run_directory=spec.location_of(directory),
        receipt=f"{spec.location_of(directory)}/{directory.receipt.name}",
        mini_batches_total=mini_batches["total"],
        mini_batches_succeeded=mini_batches["succeeded"],
        mini_batches_failed=mini_batches["failed"],
        items_total=items["total"],
        items_succeeded=items["succeeded"],
        items_failed=items["failed"],
        rows=receipt["rows"],
        seconds=seconds or 0.0,
        limits=asdict(failure_limits(config)),
        reused=seconds is None,
    )
