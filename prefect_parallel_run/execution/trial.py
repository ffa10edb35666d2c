"""Tries a step: runs a few of its mini-batches in one supervised process on this machine, without a cluster."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from select import POLLIN, poll
from typing import Any, NamedTuple

import psutil

from prefect_parallel_run._threads import Background, begin
from prefect_parallel_run._units import is_int
from prefect_parallel_run.child.failure import secret_forms, without_secrets
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.errors import EntryScriptError, RowsDifferError
from prefect_parallel_run.execution.estimate import TrialFigures, estimate, trial_warnings
from prefect_parallel_run.execution.execute import node_settings
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.monitoring.terminal import RunView, active_views
from prefect_parallel_run.node.cores import usable_cores
from prefect_parallel_run.node.gpus import default_slots, visible_gpus
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.rpc import start_node
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.output.columns import add_files
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.text import Text
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.output.reduction import publish
from prefect_parallel_run.planning.inputs import check_arguments, check_models, resolve_output
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, planning_of

_DEFAULT_MINI_BATCHES = 3
_BLOCK = 1 << 16  #: bytes of prints read at a time
_LONGEST_LINE = 2_000  #: characters of a line in an error
_POLL_INTERVAL = 100  #: ms until the end of the prints is noticed


class TrialResult(NamedTuple):
    """The rows and figures of a few mini-batches, and what the whole input would take."""

    header: str  #: header of the rows; "" if there is none
    #: As they would be published: text; a dict for each row of Parquet and ORC. If a row of text has a newline that is neither
    #: quoted nor escaped, these are lines, and only ``mini_batches`` have the number of rows.
    rows: list[Any]
    mini_batches: tuple[Receipt, ...]  #: the attempts, in order: outcome, items, rows, seconds, error, traceback
    figures: TrialFigures
    warnings: tuple[str, ...]  #: what may go wrong in a run

    @property
    def failures(self) -> tuple[Receipt, ...]:
        """Return the attempts that failed."""
        return tuple(receipt for receipt in self.mini_batches if receipt.outcome != Outcome.SUCCEEDED)


def select(mini_batches: int | None, mini_batch: int | None, sample: bool, planned: int) -> Sequence[int]:
    """Return the numbers of the mini-batches to try, out of *planned* ones; for the other parameters see ``try_out``.

    >>> select(3, None, False, 100), select(3, None, True, 100), select(None, 7, False, 100)
    ([0, 1, 2], [16, 50, 83], [7])

    Raises:
        ValueError: The parameters are invalid, or the mini-batch does not exist.
    """
    if mini_batch is None:
        mini_batches = _DEFAULT_MINI_BATCHES if mini_batches is None else mini_batches
        if not is_int(mini_batches) or mini_batches < 1:
            raise ValueError(f"mini_batches: expected a positive integer, got {mini_batches!r}")
        tried = min(mini_batches, planned)
        return [(2 * index + 1) * planned // (2 * tried) if sample else index for index in range(tried)]
    if mini_batches is not None or sample:
        values = f"mini_batch={mini_batch!r}, mini_batches={mini_batches!r}, sample={sample!r}"
        raise ValueError(f"set either mini_batch, or mini_batches and sample, got {values}")
    if not is_int(mini_batch) or mini_batch < 0:
        raise ValueError(f"mini_batch: expected an integer from 0, got {mini_batch!r}")
    if mini_batch >= planned:
        raise ValueError(f"mini_batch: expected less than {planned}, the number of planned mini-batches, got {mini_batch}")
    return [mini_batch]


def refuse_output_in(arguments: Any, output: Any) -> None:
    """Raise ValueError if an argument contains the path of the output: the script could write there."""
    path = resolve_output(output, required=False)
    for argument in check_arguments(arguments):
        if path is not None and f"{path}/" in f"{argument}/":
            advice = "write {output}, which a trial replaces with a temporary folder"
            raise ValueError(f"arguments: {argument!r} contains the output, where a trial must not write; {advice}")


def try_step(spec: StepSpec, folder: Path, choose: Callable[[int], Sequence[int]], warnings: Sequence[str]) -> TrialResult:
    """Run some mini-batches, once each, and return their rows and figures; see ``ParallelRunStep.try_out``.

    Args:
        spec: The step.
        folder: Receives plan, logs and rows.
        choose: Returns the mini-batches to try, out of a number of planned ones.
        warnings: The first warnings of the result.
    """
    choose(sys.maxsize)  # raises for what no plan can have, before planning
    config, directory = spec.config, RunDirectory(folder)
    plan = _plan(spec, directory)
    # Remote nodes are assumed to be like this machine.
    cores = usable_cores(config.node_count if config.compute_target == LOCAL else 1)
    slots = config.process_count_per_node or default_slots(cores, visible_gpus(os.environ))
    settings = node_settings(spec, directory, execution=1, most_slots=1)
    settings = settings.with_node(name="trial", slots=1, cores=max(1, cores // slots), prints=str(folder / "prints"))
    receipts, memory, problems = _run(settings, plan, choose(plan.summary.mini_batches))
    succeeded = [receipt for receipt in receipts if receipt.outcome == Outcome.SUCCEEDED]
    figures = estimate(plan.summary, succeeded, _start_seconds(directory), memory, config, slots)
    available = psutil.virtual_memory().total if config.compute_target == LOCAL else None
    warnings = (*warnings, *plan.summary.notes, *problems, *trial_warnings(figures, succeeded, config, available))
    try:
        rows = _rows(spec, directory, succeeded)
    except RowsDifferError as error:
        raise add_files(error, plan, Path(error.path).name) from None  # its folder is deleted
    return TrialResult(*rows, tuple(receipts), figures, warnings)


def _plan(spec: StepSpec, directory: RunDirectory) -> Plan:
    check_models(spec.config.models)
    directory.make()
    _show_phase(active_views(), "planning")
    planning = planning_of(spec.config, spec.in_run(directory).datasets, directory.path / "partitions")
    Background("planning", partial(planning.write, PlanWriter(directory.plan))).wait()
    return Plan(directory.plan)


def _run(settings: NodeSettings, plan: Plan, numbers: Sequence[int]) -> tuple[list[Receipt], int, list[str]]:
    """Run mini-batches; return the attempts, the largest memory of a process, bytes, and the problems of the node."""
    receipts, memory = list[Receipt](), 0
    show, first = partial(_show_phase, active_views()), next(iter(numbers), 0)
    try:
        with printing_on_stderr(Path(settings.node.prints)) as printing:
            show("preparing the environment")
            node = start_node(settings, None, threading.Event())
            try:
                show("import and init()")
                node.slots.on_report(lambda report: None if report.failure else show(f"mini-batch {first}"))
                for number in numbers:
                    if receipts:
                        show(f"mini-batch {number}")
                    receipts.append(_attempt(node, plan, number))
                    memory = max([memory, *(process.peak() for process in node.processes)])
                show("shutdown()")
                problems = node.close(graceful=True)
            except BaseException:
                node.close(graceful=False)
                raise
    except EntryScriptError as error:
        raise _with_last_line(error, printing.result(), settings.interpreter.variables) from None
    lines = (line for batch in node.log.recent_logs() for line in batch["lines"])
    return receipts, memory, problems + [text for _, name, text in lines if name == settings.node.name]


def _show_phase(views: Sequence[RunView], phase: str) -> None:
    for view in views:
        view.doing(phase)


@contextmanager
def printing_on_stderr(pipe: Path) -> Iterator[Future[str]]:
    """Print on stderr, in order, all that other processes write to a new named *pipe* during this block; end the last line.

    The result of the future, after the block, is the end of the prints.
    """
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # RDWR: reading waits for the next process instead of ending
    is_over = threading.Event()
    printing = begin(lambda: _print_from(descriptor, is_over), name="trial-prints")
    try:
        yield printing
    finally:
        is_over.set()
        printing.result()
        os.close(descriptor)


def _print_from(pipe: int, is_over: threading.Event) -> str:
    """Print what can be read from *pipe*; when it is over, return the end of the prints as soon as the pipe is empty."""
    decoder, is_last, end = codecs.getincrementaldecoder("utf-8")("backslashreplace"), False, ""
    data = poll()  # select() refuses descriptors from 1,024 on
    data.register(pipe, POLLIN)
    while not is_last:
        is_last = is_over.is_set()
        data.poll(_POLL_INTERVAL)
        with suppress(BlockingIOError):
            while block := os.read(pipe, _BLOCK):
                text = decoder.decode(block)
                _print(text)
                end = (end + text)[-_BLOCK:]
    rest = decoder.decode(b"", final=True)
    end += rest
    _print(rest if not end or end.endswith("\n") else f"{rest}\n")
    return end


def _print(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # stderr is closed or None: the processes must neither fail nor wait
        sys.stderr.write(text)


def _attempt(node: Node, plan: Plan, number: int) -> Receipt:
    """Run a mini-batch and return its receipt; raises EntryScriptError if the script cannot start."""
    (work,), (items,) = plan.works(number, number + 1), plan.items(number, number + 1)
    result = node.run(number, [Work.of(number, 1, work.encode("ascii"))])
    if result.failure is not None:
        raise result.failure.as_error(node.settings.script.path)
    (receipt,) = result.receipts
    return receipt if receipt.items >= 0 else receipt._replace(items=items, failed=items)


def _with_last_line(error: EntryScriptError, prints: str, variables: Mapping[str, str]) -> EntryScriptError:
    """Return *error*; if the script exited with a status, with the last line printed: the message of argparse, for instance."""
    line = next((line.strip() for line in reversed(prints.split("\n")) if line.strip()), "")
    if not line or not re.search(r": SystemExit: (-?\d+|None|)$", error.reason):
        return error
    line = without_secrets(line, secret_forms(variables.values()))[-_LONGEST_LINE:]
    return EntryScriptError(error.script, f"{error.reason.removesuffix(': ')}: {line}", error.details)


def _start_seconds(directory: RunDirectory) -> float:
    """Return the seconds that import and init() took in the slowest process."""
    logs = directory.logs.glob("trial.processes.jsonl")
    events = [json.loads(line) for log in logs for line in log.read_bytes().splitlines()]
    return max((event["import_seconds"] + event["init_seconds"] for event in events if event["event"] == "ready"), default=0.0)


def _rows(spec: StepSpec, directory: RunDirectory, succeeded: Sequence[Receipt]) -> tuple[str, list[Any]]:
    """Publish the rows in the temporary output, and return header and rows of that file."""
    if spec.result is None or not succeeded:
        return "", []
    name, options, path = spec.config.result_format, spec.config.append_row_csv_options or {}, Path(spec.result)
    with Parts(directory.parts) as parts:
        published = publish(succeeded, parts, path, name, "trial", options)
    output_format, has_header = OUTPUT_FORMATS[name], any(receipt.header for receipt in succeeded)
    if not isinstance(output_format, Text):
        from pyarrow.dataset import dataset  # noqa: PLC0415  0.1 s that text formats do not need

        return "", dataset(path, format=name).to_table().to_pylist()
    rows = output_format.split(path.read_bytes(), published.rows + has_header, options)
    return rows.pop(0) if has_header else "", rows
