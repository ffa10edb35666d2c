"""Tries a step: runs a few of its mini-batches in one supervised process on this machine, without a cluster."""

from __future__ import annotations

import codecs
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from select import select as wait_for_data
from typing import Any, NamedTuple, TypeVar

import psutil

from prefect_parallel_run._threads import Background, begin
from prefect_parallel_run._units import is_int
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.execution.estimate import TrialFigures, estimate, trial_warnings
from prefect_parallel_run.execution.execute import node_settings
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.monitoring.terminal import active_views
from prefect_parallel_run.node.cores import usable_cores
from prefect_parallel_run.node.gpus import default_slots, visible_gpus
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.rpc import start_node
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.output.reduction import publish
from prefect_parallel_run.planning.inputs import check_arguments, check_models, resolve_output
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, planning_of

T = TypeVar("T")
_DEFAULT_MINI_BATCHES = 3
_BLOCK = 1 << 16  #: bytes of prints read at a time
_POLL_INTERVAL = 0.1  #: s between two looks at the process


class TrialResult(NamedTuple):
    """The rows and figures of a few mini-batches, and what the whole input would take."""

    header: str  #: header line of the rows; "" if there is none
    rows: list[Any]  #: as they would be published: lines of text; a dict for each row of Parquet and ORC
    mini_batches: tuple[Receipt, ...]  #: the attempts, in order: outcome, items, rows, seconds, error, traceback
    figures: TrialFigures
    warnings: tuple[str, ...]  #: what may go wrong in a run

    @property
    def failures(self) -> tuple[Receipt, ...]:
        """Return the attempts that failed."""
        return tuple(receipt for receipt in self.mini_batches if receipt.outcome != Outcome.SUCCEEDED)


def select(mini_batches: int | None, mini_batch: int | None, sample: bool, planned: int) -> Iterable[int]:
    """Return the numbers of the mini-batches to try, out of *planned* ones; for the other parameters see ``try_out``.

    >>> [list(select(3, None, sample, 100)) for sample in (False, True)], list(select(None, 7, False, 100))
    ([[0, 1, 2], [16, 50, 83]], [7])

    Raises:
        ValueError: The parameters are invalid, or the mini-batch does not exist.
    """
    if mini_batch is None:
        mini_batches = _DEFAULT_MINI_BATCHES if mini_batches is None else mini_batches
        if not is_int(mini_batches) or mini_batches < 1:
            raise ValueError(f"mini_batches: expected a positive integer, got {mini_batches!r}")
        tried = min(mini_batches, planned)
        return ((2 * index + 1) * planned // (2 * tried) if sample else index for index in range(tried))
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


def try_step(spec: StepSpec, folder: Path, choose: Callable[[int], Iterable[int]], warnings: Sequence[str]) -> TrialResult:
    """Run some mini-batches, once each, and return their rows and figures; see ``ParallelRunStep.try_out``.

    Args:
        spec: The step.
        folder: Receives plan, logs and rows.
        choose: Returns the mini-batches to try, out of a number of planned ones.
        warnings: The first warnings of the result.
    """
    choose(sys.maxsize)  # raises for what no plan can have, before planning
    config, directory = spec.config, RunDirectory(folder)
    check_models(config.models)
    directory.make()
    _show_phase("planning")
    planning = planning_of(config, spec.in_run(directory).datasets, folder / "partitions")
    Background("planning", partial(planning.write, PlanWriter(directory.plan))).wait()
    plan = Plan(directory.plan)
    numbers = choose(plan.summary.mini_batches)
    # Remote nodes are assumed to be like this machine.
    cores = usable_cores(config.node_count if config.compute_target == LOCAL else 1)
    slots = config.process_count_per_node or default_slots(cores, visible_gpus(os.environ))
    settings = node_settings(spec, directory, execution=1, most_slots=1)
    _show_phase("preparing the environment")
    pipe = folder / "prints"
    settings = settings.with_node(name="trial", slots=1, cores=max(1, cores // slots), prints=str(pipe))
    with printing_on_stderr(pipe):
        node = start_node(settings, None, threading.Event())
        process = _Process(node)
        try:
            receipts = [process.attempt(plan, number) for number in numbers]
            problems = process.shut_down()
        except BaseException:
            node.close(graceful=False)
            raise
    figures = estimate(plan.summary, receipts, process.start_seconds, process.peak, config, slots)
    memory = psutil.virtual_memory().total if config.compute_target == LOCAL else None
    warnings = (*warnings, *plan.summary.notes, *problems, *trial_warnings(figures, receipts, config, memory))
    return TrialResult(*_rows(spec, directory, receipts), tuple(receipts), figures, warnings)


def _show_phase(phase: str) -> None:
    for view in active_views():
        view.doing(phase)


@contextmanager
def printing_on_stderr(pipe: Path) -> Iterator[None]:
    """Print on stderr, in order, all that other processes write to a new named *pipe* during this block."""
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # RDWR: reading waits for the next process instead of ending
    is_over = threading.Event()
    printing = begin(lambda: _print_from(descriptor, is_over), name="trial-prints")
    try:
        yield
    finally:
        is_over.set()
        printing.result()
        os.close(descriptor)


def _print_from(pipe: int, is_over: threading.Event) -> None:
    """Print what can be read from *pipe*; when it is over, return as soon as the pipe is empty."""
    decoder, is_last = codecs.getincrementaldecoder("utf-8")("backslashreplace"), False
    while not is_last:
        is_last = is_over.is_set()
        wait_for_data([pipe], [], [], _POLL_INTERVAL)
        with suppress(BlockingIOError):
            while block := os.read(pipe, _BLOCK):
                _print(decoder.decode(block))
    _print(decoder.decode(b"", final=True))


def _print(text: str) -> None:
    if sys.stderr is not None:  # None: it was closed when this process started
        with suppress(OSError, ValueError):  # it is closed: the processes must neither fail nor wait
            sys.stderr.write(text)


class _Process:
    """The child of a node with one slot, in this process."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.peak = 0  #: largest memory, bytes
        self.start_seconds = 0.0  #: the slowest child's

    def attempt(self, plan: Plan, number: int) -> Receipt:
        """Run a mini-batch and return its receipt; raises EntryScriptError if the script cannot start."""
        (work,), (items,) = plan.works(number, number + 1), plan.items(number, number + 1)
        works = [Work.of(number, 1, work.encode("ascii"))]
        result = self._wait(f"mini-batch {number}", lambda: self._node.run(number, works))
        if result.failure is not None:
            raise result.failure.as_error(self._node.settings.script.path)
        (receipt,) = result.receipts
        return receipt if receipt.items >= 0 else receipt._replace(items=items, failed=items)

    def shut_down(self) -> list[str]:
        """Have the script call shutdown(), end the process, and return the problems with both."""
        problems = self._wait("shutdown()", lambda: self._node.close(graceful=True))
        lines = (line for batch in self._node.log.recent_logs() for line in batch["lines"])
        return problems + [text for _, name, text in lines if name == self._node.settings.node.name]

    def _wait(self, phase: str, call: Callable[[], T]) -> T:
        """Return the result of a call, which Ctrl-C does not interrupt: closing the node ends it."""
        future, is_done = begin(call, name="trial"), False
        while not is_done:
            is_done = bool(wait_for([future], timeout=_POLL_INTERVAL).done)
            self.observe()
            processes = self._node.processes
            is_starting = processes and not any(process.start_seconds for process in processes)
            _show_phase("import and init()" if is_starting else phase)
        return future.result()

    def observe(self) -> None:
        """Measure the process."""
        for process in self._node.processes:
            self.peak = max(self.peak, process.peak())
            self.start_seconds = max(self.start_seconds, process.start_seconds)


def _rows(spec: StepSpec, directory: RunDirectory, receipts: Sequence[Receipt]) -> tuple[str, list[Any]]:
    """Publish the rows in the temporary output, and return header and rows of that file."""
    places = [receipt for receipt in receipts if receipt.outcome == Outcome.SUCCEEDED]
    if spec.result is None or not places:
        return "", []
    name, options, path = spec.config.result_format, spec.config.append_row_csv_options or {}, Path(spec.result)
    with Parts(directory.parts) as parts:
        publish(places, parts, path, name, "trial", options)
    if OUTPUT_FORMATS[name].has_one_schema:
        from pyarrow.dataset import dataset  # noqa: PLC0415  0.1 s that text formats do not need

        return "", dataset(path, format=name).to_table().to_pylist()
    data, length = path.read_bytes(), next((place.header for place in places if place.header), 0)
    header, rows = (
        part.decode(options.get("encoding") or "utf-8", "surrogateescape") for part in (data[:length], data[length:])
    )
    return header.removesuffix("\n"), rows.split("\n")[:-1]
