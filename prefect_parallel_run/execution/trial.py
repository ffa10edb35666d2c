"""Tries a step: runs a few of its mini-batches in one supervised process on this machine, without a cluster.

Plan, logs and rows are in a temporary folder, which also takes the place of the step's output.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
from typing_extensions import Self

from prefect_parallel_run._threads import Background, begin
from prefect_parallel_run._units import count, is_int
from prefect_parallel_run.config.model import LOCAL, ParallelRunConfig
from prefect_parallel_run.execution.estimate import TrialFigures, estimate, trial_warnings
from prefect_parallel_run.execution.execute import node_settings
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.monitoring.terminal import active_views
from prefect_parallel_run.node.cores import usable_cores
from prefect_parallel_run.node.gpus import default_slots, visible_gpus
from prefect_parallel_run.node.log_files import ENDINGS
from prefect_parallel_run.node.node import Node
from prefect_parallel_run.node.rpc import start_node
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.output.formats import OUTPUT_FORMATS
from prefect_parallel_run.output.formats.base import Sink
from prefect_parallel_run.output.part_writer import naming_errors
from prefect_parallel_run.output.parts import Parts
from prefect_parallel_run.planning.inputs import check_models, fill_placeholders
from prefect_parallel_run.planning.plan import Plan
from prefect_parallel_run.planning.planner import PlanWriter
from prefect_parallel_run.runs.run_directory import RunDirectory
from prefect_parallel_run.runs.spec import StepSpec, planning_of

T = TypeVar("T")
_POLL_INTERVAL = 0.1  #: s between two looks at the process


def select(mini_batches: int, mini_batch: int | None, sample: bool, planned: int) -> Iterable[int]:
    """Return the numbers of the mini-batches to try, out of *planned* ones; for the other parameters see ``try_out``.

    >>> [list(select(3, None, sample, 100)) for sample in (False, True)], list(select(3, 7, False, 100))
    ([[0, 1, 2], [16, 50, 83]], [7])

    Raises:
        ValueError: The parameters are invalid, or the mini-batch does not exist.
    """
    if not is_int(mini_batches) or mini_batches < 1:
        raise ValueError(f"mini_batches: expected a positive integer, got {mini_batches!r}")
    if mini_batch is None:
        tried = min(mini_batches, planned)
        return ((2 * index + 1) * planned // (2 * tried) if sample else index for index in range(tried))
    if sample:
        raise ValueError("set either mini_batch or sample, not both")
    if not is_int(mini_batch) or not 0 <= mini_batch < planned:
        raise ValueError(
            f"mini_batch: expected a number from 0, below the {planned} mini-batches of the plan, got {mini_batch!r}"
        )
    return [mini_batch]


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


def try_step(spec: StepSpec, choose: Callable[[int], Iterable[int]], warnings: Sequence[str] = ()) -> TrialResult:
    """Run some mini-batches, once each, and return their rows and figures; see ``ParallelRunStep.try_out``.

    Args:
        spec: The step; its arguments still have their placeholders.
        choose: Returns the mini-batches to try, out of a number of planned ones.
        warnings: The first warnings of the result.
    """
    choose(sys.maxsize)  # raises for what no plan can have, before planning
    check_models(spec.config.models)
    config, (slots, cores) = spec.config, _slots_and_cores(spec.config)
    with tempfile.TemporaryDirectory(prefix="parallel_run_try_") as folder:
        directory = RunDirectory(Path(folder, "run"))
        directory.make()
        spec = _with_output_in(Path(folder, "output"), spec)
        plan = _plan(spec, directory)
        numbers = choose(plan.summary.mini_batches)
        with _Process(_start_node(spec, directory, cores), directory) as process:
            receipts = [process.attempt(plan, number) for number in numbers]
            problems = process.shut_down()
        figures = estimate(plan.summary, receipts, process.start_seconds, process.peak, config, slots)
        memory = psutil.virtual_memory().total if config.compute_target == LOCAL else None
        return TrialResult(
            *_published(spec, directory, receipts),
            tuple(receipts),
            figures,
            (*warnings, *plan.summary.notes, *problems, *trial_warnings(figures, receipts, config, memory)),
        )


def _show_phase(phase: str, *, restart: bool = True) -> None:
    for view in active_views():
        view.doing(phase, restart=restart)


def _with_output_in(folder: Path, spec: StepSpec) -> StepSpec:
    """Return *spec* with *folder* in place of its output, and with filled placeholders.

    Raises:
        ValueError: An argument contains the output's path, so that the script could write there.
    """
    for argument in spec.parameters.arguments:
        if spec.output is not None and f"{spec.output}/" in f"{argument}/":
            advice = "write {output}, which a trial replaces with a temporary folder"
            raise ValueError(f"arguments: {argument!r} contains the output, where a trial must not write; {advice}")
    output = None
    if spec.output is not None or spec.config.result_file_name is not None:
        folder.mkdir()
        output = str(folder)
    arguments = fill_placeholders(spec.parameters.arguments, output, spec.datasets, spec.parameters.side_inputs)
    return replace(spec, output=output, parameters=spec.parameters._replace(arguments=arguments))


def _plan(spec: StepSpec, directory: RunDirectory) -> Plan:
    """Plan the whole input."""
    planning, writer = planning_of(spec.config, spec.datasets, directory.path / "partitions"), PlanWriter(directory.plan)
    _show_phase("planning")
    Background("planning", partial(planning.write, writer)).wait(
        lambda: _show_phase(f"planning: {count(writer.items, 'item')}", restart=False)
    )
    return Plan(directory.plan)


def _slots_and_cores(config: ParallelRunConfig) -> tuple[int, int]:
    """Return the processes per node and the cores of each; what only the nodes can determine is that of this machine."""
    cores = usable_cores(config.node_count if config.compute_target == LOCAL else 1)
    slots = config.process_count_per_node or default_slots(cores, visible_gpus(os.environ))
    return slots, max(1, cores // slots)


class _Process:
    """The child of a node with one slot, in this process; its prints and log lines go to stderr."""

    def __init__(self, node: Node, directory: RunDirectory) -> None:
        self._node, self._logs = node, directory.logs
        self._shown: dict[Path, int] = {}  # bytes of each log
        self.peak = 0  #: largest memory, bytes
        self.start_seconds = 0.0  #: the slowest child's

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._node.close(graceful=False)
            self._observe()

    def attempt(self, plan: Plan, number: int) -> Receipt:
        """Run a mini-batch and return its receipt; raises EntryScriptError if the script cannot start."""
        _show_phase(f"mini-batch {number}")
        (work,), (items,) = plan.works(number, number + 1), plan.items(number, number + 1)
        result = self._wait(lambda: self._node.run(number, [Work.of(number, 1, work.encode("ascii"))]))
        if result.failure is not None:
            raise result.failure.as_error(self._node.settings.script.path)
        (receipt,) = result.receipts
        return receipt if receipt.items >= 0 else receipt._replace(items=items, failed=items)

    def shut_down(self) -> list[str]:
        """Have the script call shutdown(), end the process, and return the problems with both."""
        _show_phase("shutdown()")
        problems = self._wait(lambda: self._node.close(graceful=True))
        lines = [line for batch in self._node.log.recent_logs() for line in batch["lines"]]
        return problems + [text for _, name, text in lines if name == self._node.settings.node.name]

    def _wait(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which Ctrl-C does not interrupt: closing the node ends it."""
        future = begin(call, name="trial")
        while not wait_for([future], timeout=_POLL_INTERVAL).done:
            self._observe()
        self._observe()
        return future.result()

    def _observe(self) -> None:
        for process in self._node.processes:
            self.peak = max(self.peak, process.peak())
            self.start_seconds = max(self.start_seconds, process.start_seconds)
        for path in sorted(path for path in self._logs.iterdir() if path.name.endswith(ENDINGS)):
            with suppress(FileNotFoundError), path.open("rb") as file:  # empty files of ended processes are removed
                file.seek(min(self._shown.get(path, 0), file.seek(0, os.SEEK_END)))  # a long file is shortened
                sys.stderr.write(file.read().decode("utf-8", "backslashreplace"))
                self._shown[path] = file.tell()


def _start_node(spec: StepSpec, directory: RunDirectory, cores: int) -> Node:
    """Start a node with one slot."""
    _show_phase("preparing the environment")
    settings = node_settings(spec, directory, execution=1, most_slots=1).with_node(name="trial", slots=1, cores=cores)
    return start_node(settings, None, threading.Event())


def _published(spec: StepSpec, directory: RunDirectory, receipts: Sequence[Receipt]) -> tuple[str, list[Any]]:
    """Return header and rows of the file that a run would publish of these mini-batches."""
    places = [receipt for receipt in receipts if receipt.outcome == Outcome.SUCCEEDED]
    if spec.result is None or not places:
        return "", []
    name, options, path = spec.config.result_format, spec.config.append_row_csv_options or {}, directory.path / "result"
    output_format = OUTPUT_FORMATS[name]
    with naming_errors(str(spec.config.result_file_name), name), Parts(directory.parts) as parts, path.open("wb") as file:
        layout = output_format.layout(places, parts)
        output_format.write(places, parts, Sink(file.write), options, layout)
    if output_format.has_one_schema:
        from pyarrow.dataset import dataset  # noqa: PLC0415  0.1 s that text formats do not need

        return "", dataset(path, format=name).to_table().to_pylist()
    encoding = options.get("encoding") or "utf-8"
    header, body = (
        data.decode(encoding, "surrogateescape") for data in (layout.header, path.read_bytes()[len(layout.header) :])
    )
    return header.removesuffix("\n"), body.removesuffix("\n").split("\n") if body else []
