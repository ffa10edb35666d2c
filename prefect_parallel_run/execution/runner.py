"""One run of a step, from its inputs to its result. Independent of Prefect: step.py and the command line build on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

from prefect_parallel_run._threads import Background, Cancelled, chain_checks
from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.errors import (
    EntryScriptError,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
    RowsDifferError,
)
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.execution.execute import ClusterStartup, execute
from prefect_parallel_run.models import execution_prefix
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.output.reduction import Reduction
from prefect_parallel_run.planning.inputs import check_models
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.create import complete_description, step_of
from prefect_parallel_run.runs.events import Emit, Noted, RunFinished, Warned
from prefect_parallel_run.runs.executions import record_end, record_start
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import RunMirror, has_complete_copy
from prefect_parallel_run.runs.overrides import FACT, Adjustments
from prefect_parallel_run.runs.resolve import (
    ExistingRuns,
    ResumeRequest,
    RunSelection,
    find_existing_runs,
    fingerprint_of,
    get_or_create_run,
    has_existing_runs,
    resume_run,
)
from prefect_parallel_run.runs.run_directory import FOLDER, RunDirectory, parse_json, read_json, runs_below
from prefect_parallel_run.runs.spec import StepSpec, failure_limits
from prefect_parallel_run.storage.objects import names_below, read, size_of

_REPORT_IF_FAILED = 20.0  #: s to write the report of a run that failed
_REPORT_IF_CANCELLED = 1.0  #: s to write the report of a cancelled run: the user does not want to wait


def run_step(
    spec: StepSpec,
    target: Target,
    emit: Emit,
    check_cancelled: Callable[[], None],
    reduce: Callable[[Reduction], dict[str, Any]],
    resume_request: ResumeRequest | None = None,
    existing_runs: ExistingRuns | None = None,
) -> ParallelRunResult:
    """Run a step and return its result.

    An unfinished run with the same fingerprint in the same output is resumed; a finished one is returned unchanged when
    *spec* allows reuse and its result is intact.

    Args:
        spec: Definition of the step.
        target: Where it runs.
        emit: Receives the events of the run.
        check_cancelled: Called several times a second; raises when the run is cancelled.
        reduce: Performs the final reduction (in Prefect: as a separate task run).
        resume_request: Resume exactly this run directory.
        existing_runs: Earlier runs of this step, if already known.

    Raises:
        InputError: A model of the configuration does not exist.
        InputChangedError: The run directory to resume was planned for something else.
        RunLockedError: Another process is executing the run.
    """
    started = time.monotonic()
    check_models(spec.config.models)
    with ExitStack() as stack, ClusterStartup(target, spec) as cluster:  # the lock outlives the cluster
        if resume_request is not None:
            selection = resume_run(spec, fingerprint_of(spec), resume_request, check_cancelled)
        else:
            if not (has_existing_runs(spec) if existing_runs is None else existing_runs.reusable):
                cluster.start()  # opens while script and input are checked
            selection = get_or_create_run(spec, existing_runs or find_existing_runs(spec, check_cancelled), check_cancelled)
        stack.callback(selection.close)
        directory = selection.directory
        mirror = (
            None if spec.store is None else RunMirror(directory, spec.location_of(directory), lambda text: emit(Warned(text)))
        )
        if selection.lock is None:
            if mirror is not None and not has_complete_copy(directory):
                _complete_copy(mirror, directory, check_cancelled, stack)
            return earlier_result(spec, directory, resume_request)
        check_cancelled = check_cancelled if mirror is None else chain_checks(check_cancelled, mirror.raise_if_lost)
        if mirror is not None:
            stack.callback(mirror.close)
        with Ledger(directory.ledger) as ledger:
            try:
                execution = _begin_execution(directory, ledger, spec)  # before the mirror uploads anything
                if resume_request is not None and resume_request.given:
                    Adjustments.of_ledger(ledger).without(resume_request.given).note(ledger)
                control = Control(directory, selection.lock.driver, ledger, spec.config, emit)
                if mirror is not None:
                    Background("mirror", mirror.begin).wait(check_cancelled)
                execute(spec, selection, ledger, execution, cluster, emit, chain_checks(check_cancelled, control.poll), control)
                control.close("every mini-batch is done and the result is being assembled")
                receipt = reduce(_reduction(spec, selection, ledger, emit, chain_checks(check_cancelled, control.poll)))
            except BaseException as error:
                emit(RunFinished(*_record_end(ledger, error)))
                if ledger.is_empty() and not directory.plan.exists():
                    _delete_empty_run(directory, mirror, stack)
                else:
                    seconds = _REPORT_IF_FAILED if isinstance(error, Exception) else _REPORT_IF_CANCELLED
                    stack.callback(_report_in_time, directory, emit, seconds)  # once the cluster is gone
                raise
            ledger.note(status="succeeded", reason="", ended_by="")
            record_end(ledger, "succeeded", "")
            emit(RunFinished("succeeded"))
            _report(directory, emit, check_cancelled)
        if mirror is not None:
            _complete_copy(mirror, directory, check_cancelled, stack)
        return _result(_with_adjustments(spec, receipt), directory, receipt, time.monotonic() - started, reused=False)


def _with_adjustments(spec: StepSpec, receipt: dict[str, Any], resume_request: ResumeRequest | None = None) -> StepSpec:
    """Return *spec* with the changes that commands made during the run with this receipt."""
    overrides = resume_request.given if resume_request is not None else ()
    return replace(spec, config=Adjustments.of_receipt(receipt).without(overrides).of(spec.config))


def earlier_result(spec: StepSpec, directory: RunDirectory, resume_request: ResumeRequest | None = None) -> ParallelRunResult:
    """Return the result of a finished run as the result of *spec*, with no run time."""
    receipt = read_json(directory.receipt)
    return _result(_with_adjustments(spec, receipt, resume_request), directory, receipt, 0.0, reused=True)


def _delete_empty_run(directory: RunDirectory, mirror: RunMirror | None, stack: ExitStack) -> None:
    """Delete, on exit, a run directory that has no plan and no attempts, locally and in the store."""
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)
    if mirror is not None:
        stack.callback(mirror.discard)


def _complete_copy(mirror: RunMirror, directory: RunDirectory, check_cancelled: Callable[[], None], stack: ExitStack) -> None:
    """Complete the remote copy of a finished run, and delete the local one on exit."""
    Background("mirror", mirror.finish).wait(check_cancelled)
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)


def _begin_execution(directory: RunDirectory, ledger: Ledger, spec: StepSpec) -> int:
    """Record a new execution and return its number.

    An execution whose record was lost in a power cut may have left parts. Its number is not reused: a part is written once.
    """
    ledger.protect()
    before = ledger.facts()
    execution = int(before.get("drives", "0")) + 1
    while any(directory.parts.glob(f"{execution_prefix(execution)}node-*")):
        execution += 1
    attempts = max(spec.config.run_max_try, int(before.get("run_max_try", "0")))
    # A pause ends with its execution, and the reason that the previous one ended is out of date.
    ledger.note(status="running", reason="", ended_by="", drives=str(execution), run_max_try=str(attempts), paused="0")
    record_start(ledger, execution, spec.config)
    return execution


def _report(directory: RunDirectory, emit: Emit, check_cancelled: Callable[[], None]) -> None:
    """Write report.html; a failure is only a warning."""

    def work(check_cancelled: Callable[[], None]) -> str:
        try:
            write_report(directory, check_cancelled=check_cancelled)
        except Exception as error:  # noqa: BLE001  any error becomes a warning; the run keeps its own outcome
            return f"{type(error).__name__}: {error}"
        return ""

    if problem := Background("report", work).wait(check_cancelled):
        emit(Warned(f"the report could not be written: {problem}; retry with prefect-parallel-run report {directory.path}"))


def _report_in_time(directory: RunDirectory, emit: Emit, seconds: float) -> None:
    """Write report.html of an unsuccessful run, unless that takes longer than *seconds*."""
    deadline = time.monotonic() + seconds

    def check_cancelled() -> None:
        if time.monotonic() > deadline:
            raise Cancelled

    try:
        _report(directory, emit, check_cancelled)
    except Cancelled:
        command = f"prefect-parallel-run report {directory.path}"
        emit(Warned(f"skipped the report, which takes longer than {seconds:g} s; write it with {command}"))


def _reduction(
    spec: StepSpec, selection: RunSelection, ledger: Ledger, emit: Emit, check_cancelled: Callable[[], None]
) -> Reduction:
    """Return the task of the final reduction, after the inputs were verified."""
    if selection.check is not None:
        selection.check.wait(check_cancelled)
    _warn_of_replacing(spec, selection.directory, emit)
    adjustments = Adjustments.of_ledger(ledger)
    return Reduction(
        directory=selection.directory,
        limits=failure_limits(adjustments.of(spec.config)),
        notes={FACT: adjustments.to_facts()} if adjustments else {},
        target=spec.target_of(selection.directory),
        result=spec.result,
        row_format=spec.config.result_format,
        row_options=spec.config.append_row_csv_options or {},
        identity=complete_description(selection.directory, selection.planner)["identity"],
        output=spec.output if spec.writes_output else None,
        check_cancelled=check_cancelled,
    )


def _warn_of_replacing(spec: StepSpec, directory: RunDirectory, emit: Emit) -> None:
    """Warn when the result file of another step is replaced; log it when it is this step's, of other inputs."""
    if spec.result is None or size_of(spec.result) is None:
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
    copies = f"{spec.store}/{FOLDER}"
    for name in sorted(names_below(copies), key=lambda name: name.rsplit("-", 2)[1:], reverse=True):  # by time
        url = f"{copies}/{name}receipt.json"
        with suppress(FileNotFoundError):  # not finished
            yield name.rstrip("/"), parse_json(read(url), url)


def _record_end(ledger: Ledger, error: BaseException) -> tuple[str, str]:
    """Record and return how and why a run ended. If recording fails too, the original error wins."""
    status = "interrupted" if isinstance(error, Exception) else "cancelled"
    if isinstance(error, LimitExceededError | NothingSucceededError | EntryScriptError | RowsDifferError):
        status = "failed"  # resuming would only fail again
    reason = str(error) or type(error).__name__
    with suppress(OutputError):
        ledger.note(status=status, reason=reason, ended_by=type(error).__name__)
        record_end(ledger, status, reason)
    return status, reason


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
        run_directory=spec.location_of(directory),
        receipt=f"{spec.location_of(directory)}/{directory.receipt.name}",
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
