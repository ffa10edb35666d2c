"""One run of a step, from its inputs to its result. Knows nothing of Prefect: step.py and the command line sit on top."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

from prefect_parallel_run._threads import Background, Cancelled, both
from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.errors import (
    EntryScriptError,
    LimitExceededError,
    NothingSucceededError,
    OutputError,
    RowsDifferError,
)
from prefect_parallel_run.execution.cluster_startup import ClusterStartup
from prefect_parallel_run.execution.control import Control
from prefect_parallel_run.execution.drive import RunListener, execute
from prefect_parallel_run.models import drive_prefix
from prefect_parallel_run.monitoring.report import write_report
from prefect_parallel_run.output.reduction import Reduction
from prefect_parallel_run.planning.inputs import check_models
from prefect_parallel_run.result import ParallelRunResult
from prefect_parallel_run.runs.create import complete_description, step_of
from prefect_parallel_run.runs.executions import note_drive_begin, note_drive_end
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.mirror import RunMirror, is_copied
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

_REPORT_IF_FAILED = 20.0  #: s for the report of a run that has ended before its time
_REPORT_IF_CANCELLED = 1.0  #: s, the same: whoever cancels does not want to wait


def run_step(
    spec: StepSpec,
    target: Target,
    watch: RunListener,
    check_cancelled: Callable[[], None],
    reduce: Callable[[Reduction], dict[str, Any]],
    resumption: ResumeRequest | None = None,
    look: ExistingRuns | None = None,
) -> ParallelRunResult:
    """Run a step and return its result.

    An unfinished run of the same identity in the same output is gone on with; a finished one is returned as it is when
    *spec* allows reuse and its result is unaltered.

    Args:
        spec: What to do.
        target: Where.
        watch: Who is told.
        check_cancelled: Called several times a second; raises to stop the run.
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
    with ExitStack() as stack, ClusterStartup(target, spec) as cluster:  # the lock outlives the cluster
        if resumption is not None:
            choice = resume_run(spec, fingerprint_of(spec), resumption, check_cancelled)
        else:
            if not (has_existing_runs(spec) if look is None else look.reusable):
                cluster.begin()  # meanwhile script and input are looked at
            choice = get_or_create_run(spec, look or find_existing_runs(spec, check_cancelled), check_cancelled)
        stack.callback(choice.close)
        directory = choice.directory
        mirror = None if spec.store is None else RunMirror(directory, spec.place_of(directory), watch.warned)
        if choice.lock is None:
            if mirror is not None and not is_copied(directory):
                _bring_up(mirror, directory, check_cancelled, stack)
            return earlier_result(spec, directory, resumption)
        check_cancelled = check_cancelled if mirror is None else both(check_cancelled, mirror.raise_if_lost)
        if mirror is not None:
            stack.callback(mirror.close)
        with Ledger(directory.ledger) as ledger:
            try:
                drive = _begin_execution(directory, ledger, spec)  # before anything of it goes up
                if resumption is not None and resumption.given:
                    Adjustments.of_ledger(ledger).without(resumption.given).note(ledger)
                control = Control(directory, choice.lock.driver, ledger, spec.config, watch)
                if mirror is not None:
                    Background("mirror", mirror.begin).wait(check_cancelled)
                execute(spec, choice, ledger, drive, cluster, watch, both(check_cancelled, control.listen), control)
                control.end("every mini-batch is done, and the result is being put together")
                receipt = reduce(_reduction(spec, choice, ledger, watch, both(check_cancelled, control.listen)))
            except BaseException as error:
                watch.closed(*_note_end(ledger, error))
                if ledger.is_empty() and not directory.plan.exists():
                    _remove_what_never_began(directory, mirror, stack)
                else:
                    seconds = _REPORT_IF_FAILED if isinstance(error, Exception) else _REPORT_IF_CANCELLED
                    stack.callback(_report_in_time, directory, watch, seconds)  # once the cluster is gone
                raise
            ledger.note(status="succeeded", reason="", ended_by="")
            note_drive_end(ledger, "succeeded", "")
            watch.closed("succeeded", "")
            _report(directory, watch, check_cancelled)
        if mirror is not None:
            _bring_up(mirror, directory, check_cancelled, stack)
        return _result(_as_adjusted(spec, receipt), directory, receipt, time.monotonic() - started, reused=False)


def _as_adjusted(spec: StepSpec, receipt: dict[str, Any], resumption: ResumeRequest | None = None) -> StepSpec:
    """Return *spec* as it was changed while the run with this receipt went on."""
    given = resumption.given if resumption is not None else ()
    return replace(spec, config=Adjustments.of_receipt(receipt).without(given).of(spec.config))


def earlier_result(spec: StepSpec, directory: RunDirectory, resumption: ResumeRequest | None = None) -> ParallelRunResult:
    """Return the result of a finished run as that of *spec*: nothing ran, which took no time."""
    receipt = read_json(directory.receipt)
    return _result(_as_adjusted(spec, receipt, resumption), directory, receipt, 0.0, reused=True)


def _remove_what_never_began(directory: RunDirectory, mirror: RunMirror | None, stack: ExitStack) -> None:
    """Have a run directory without plan and tries removed at the end, here and in the store."""
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)
    if mirror is not None:
        stack.callback(mirror.discard)


def _bring_up(mirror: RunMirror, directory: RunDirectory, check_cancelled: Callable[[], None], stack: ExitStack) -> None:
    """Have the copy of a finished run made whole, and the one on this machine removed at the end."""
    Background("mirror", mirror.finish).wait(check_cancelled)
    stack.callback(shutil.rmtree, directory.path, ignore_errors=True)


def _begin_execution(directory: RunDirectory, ledger: Ledger, spec: StepSpec) -> int:
    """Note that the run is driven once more, and return how often that makes.

    A drive whose note a power cut undid may have left parts. Its number is not used again: a part is written once.
    """
    ledger.protect()
    before = ledger.facts()
    drive = int(before.get("drives", "0")) + 1
    while any(directory.parts.glob(f"{drive_prefix(drive)}node-*")):
        drive += 1
    tries = max(spec.config.run_max_try, int(before.get("run_max_try", "0")))
    # A pause ends with its driving, and so does what an earlier one ended by.
    ledger.note(status="running", reason="", ended_by="", drives=str(drive), run_max_try=str(tries), paused="0")
    note_drive_begin(ledger, drive, spec.config)
    return drive


def _report(directory: RunDirectory, watch: RunListener, check_cancelled: Callable[[], None]) -> None:
    """Write report.html; a run does not fail for it."""

    def work(check_cancelled: Callable[[], None]) -> str:
        try:
            write_report(directory, check_cancelled=check_cancelled)
        except Exception as error:  # noqa: BLE001  whatever it was: it is told, and the run's own end counts
            return f"{type(error).__name__}: {error}"
        return ""

    if trouble := Background("report", work).wait(check_cancelled):
        watch.warned(f"the report could not be written: {trouble}; prefect-parallel-run report {directory.path} writes it")


def _report_in_time(directory: RunDirectory, watch: RunListener, seconds: float) -> None:
    """Write report.html of a run that has ended before its time, unless that takes longer than *seconds*."""
    deadline = time.monotonic() + seconds

    def check_cancelled() -> None:
        if time.monotonic() > deadline:
            raise Cancelled

    try:
        _report(directory, watch, check_cancelled)
    except Cancelled:
        watch.warned(f"the report would take longer than {seconds:g} s; prefect-parallel-run report {directory.path} writes it")


def _reduction(
    spec: StepSpec, choice: RunSelection, ledger: Ledger, watch: RunListener, check_cancelled: Callable[[], None]
) -> Reduction:
    """Return what the final reduction needs to know, once the inputs are known to be the planned ones."""
    if choice.check is not None:
        choice.check.wait(check_cancelled)
    _tell_of_replacing(spec, choice.directory, watch)
    adjustments = Adjustments.of_ledger(ledger)
    return Reduction(
        directory=choice.directory,
        limits=failure_limits(adjustments.of(spec.config)),
        notes={FACT: adjustments.to_facts()} if adjustments else {},
        target=spec.target_of(choice.directory),
        result=spec.result,
        row_format=spec.config.result_format,
        row_options=spec.config.append_row_csv_options or {},
        identity=complete_description(choice.directory, choice.planner)["identity"],
        output=spec.output if spec.writes_output else None,
        check_cancelled=check_cancelled,
    )


def _tell_of_replacing(spec: StepSpec, directory: RunDirectory, watch: RunListener) -> None:
    """Warn when the result file is that of another step; when it is this step's, of other inputs, it is only noted."""
    if spec.result is None or size_of(spec.result) is None:
        return
    run_id = next((run_id for run_id, receipt in _receipts(spec) if receipt["output_file"] == spec.result), None)
    if run_id is None or _same_but_for_inputs(run_id) == _same_but_for_inputs(directory.run_id):
        return
    if step_of(run_id) != step_of(directory.run_id):
        watch.warned(f"{spec.result} is the result of run {run_id}, and is replaced; give each step its own output")
    else:
        watch.noted(f"{spec.result}, the result of run {run_id} of this step, is replaced")


def _same_but_for_inputs(run_id: str) -> str:
    """Return the name of a run without time and token."""
    return run_id.rsplit("-", 2)[0]


def _receipts(spec: StepSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and receipt of the finished runs of an output, the newest first."""
    if spec.store is None:
        for found in runs_below(spec.runs, ""):
            if found.receipt.exists():
                yield found.run_id, read_json(found.receipt)
        return
    copies = f"{spec.store}/{FOLDER}"
    for name in sorted(names_below(copies), key=lambda name: name.rsplit("-", 2)[1:], reverse=True):  # by time
        place = f"{copies}/{name}receipt.json"
        with suppress(FileNotFoundError):  # not finished
            yield name.rstrip("/"), parse_json(read(place), place)


def _note_end(ledger: Ledger, error: BaseException) -> tuple[str, str]:
    """Note, and return, how and why a run ended. Where even that cannot be written, the first error is the one to tell."""
    status = "interrupted" if isinstance(error, Exception) else "cancelled"
    if isinstance(error, LimitExceededError | NothingSucceededError | EntryScriptError | RowsDifferError):
        status = "failed"  # by itself: going on would only end the same way
    reason = str(error) or type(error).__name__
    with suppress(OutputError):
        ledger.note(status=status, reason=reason, ended_by=type(error).__name__)
        note_drive_end(ledger, status, reason)
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
