"""Our side: run a step over files and read from its ledger when the first run() began and the last one ended.

The functions that return a dict are called in an engine's own process: the flow process of the step.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "scripts"
PROCESSES = 2
_MOST_FILES = 100_000  #: in a folder; longer inputs name it several times over


def quiet() -> None:
    """Have Prefect and Ray keep to themselves; for this process and those it starts."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")


# ---- input ----


@dataclass(frozen=True)
class Input:
    """Files to run over: a folder that is named so many times."""

    folder: Path
    times: int
    listed: Path  #: a file with a path per line, in the order of the mini-batches: what peers read


def make_files(place: Path, number: int, name: Callable[[int], str] = "{:07d}".format) -> Input:
    """Make empty files, *number* in all; those of long inputs are fewer, and the folder is named several times."""
    times = -(-number // _MOST_FILES)
    if number % times:
        raise ValueError(f"{number} files do not make {times} folders of one size")
    folder = place / "files"
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    names = [name(index) for index in range(number // times)]
    for one in names:
        os.mknod(one, 0o100644, dir_fd=descriptor)
    os.close(descriptor)
    listed = place / "paths.txt"
    with listed.open("w") as file:
        for _ in range(times):
            file.writelines(f"{folder}/{one}\n" for one in sorted(names))
    return Input(folder, times, listed)


# ---- one step ----


@dataclass(frozen=True)
class Facts:
    """When a step did what, Unix time, s."""

    called: float
    first: float  #: run() began
    last: float  #: run() ended
    ended: float
    inside: float  #: s, sum over all run()
    run_directory: Path

    @property
    def span(self) -> float:
        """Return the seconds from the first run(), and what it reads, to the end of the last one."""
        return self.last - self.first


def make_step(script: str, inputs: Any, output: Path, *, name: str = "benchmark", arguments: Any = None, **fields: Any) -> Any:
    """Return a step with two processes on one node, unless *fields* of the configuration say otherwise."""
    from prefect_parallel_run import ParallelRunConfig, ParallelRunStep

    config = ParallelRunConfig(
        **{
            "entry_script": str(SCRIPTS / script),
            "error_threshold": 0,
            "output_action": "append_row",
            "mini_batch_size": 10,
            "node_count": 1,
            "process_count_per_node": PROCESSES,
            **fields,
        }
    )
    return ParallelRunStep(name, config, inputs=inputs, output=output, arguments=arguments, allow_reuse=False)


def named(folder: str | Path, times: int) -> list[Any]:
    """Return inputs that name a folder so many times."""
    from prefect_parallel_run import FileDataset

    return [FileDataset.from_files(str(folder)).as_named_input(f"part_{number:04d}") for number in range(times)]


def run_step(step: Any) -> Facts:
    """Run a step."""
    called = time.time()
    result = step()
    return facts(called, time.time(), Path(result.run_directory))


def facts(called: float, ended: float, run_directory: Path) -> Facts:
    """Read the ledger of a run."""
    query = "SELECT MIN(started), MAX(started + seconds), SUM(seconds) FROM attempts"
    ((first, last, inside),) = attempts(run_directory, query)
    return Facts(called, first, last, ended, inside, run_directory)


def attempts(run_directory: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds in a run's ledger."""
    with closing(sqlite3.connect(run_directory / "ledger.sqlite")) as ledger:
        return ledger.execute(query).fetchall()


def work_over(
    folder: str, times: int, script: str, target: str | None, planned: bool = False, fields: dict[str, Any] | None = None
) -> dict[str, float]:
    """Run a step over files; called in its flow process.

    Args:
        folder, times: The input.
        script: Of the folder scripts.
        target: Where its result is left; None: it is removed.
        planned: Plan the input whole before the first run(). A step whose output lies among its inputs does so, since what
            it writes could be listed; here it lies in a hidden folder, which is never listed.
        fields: Further fields of the configuration.

    Returns:
        ``working`` (s, from the first run() to the step's result), ``span`` (s, from the first run() to the last one's end),
        ``inside`` (s in run(), all processes together), ``to_first_run`` (s, from the call), ``publishing`` (s, from the last
        run() to the result), ``whole`` (s, the step).
    """
    output = Path(folder, ".out") if planned else Path(f"{folder}.out")
    fields = dict(fields or {})
    arguments = fields.pop("arguments", None)
    try:
        step = make_step(script, named(folder, times), output, arguments=arguments, **fields)
        found = run_step(step)
        if planned and (found.run_directory / "plan.parquet").stat().st_mtime > found.first:
            raise AssertionError("the plan was not whole before the first run()")
        if target is not None:
            shutil.move(output / "parallel_run_step.txt", target)
    finally:
        shutil.rmtree(output, ignore_errors=True)
    return {
        "working": found.ended - found.first,
        "span": found.span,
        "inside": found.inside,
        "to_first_run": found.first - found.called,
        "publishing": found.ended - found.last,
        "whole": found.ended - found.called,
    }


def plan_alone(folder: str, times: int) -> float:
    """Return the CPU seconds of planning, and nothing else; called in a flow process."""
    from prefect_parallel_run.planning.inputs import normalize_inputs
    from prefect_parallel_run.planning.planner import Planning, PlanWriter

    place = Path(f"{folder}.plan")
    place.mkdir()
    try:
        began = time.process_time()
        Planning(normalize_inputs(named(folder, times)), 10, None, Path()).write(PlanWriter(place / "plan.parquet"))
        return time.process_time() - began
    finally:
        shutil.rmtree(place)


def processes_of(run_directory: Path) -> Iterator[tuple[int, float, float]]:
    """Yield process, begin and end (Unix time, s) of every try, in the order of their begin."""
    for pid, started, seconds in attempts(run_directory, "SELECT pid, started, seconds FROM attempts ORDER BY started"):
        yield pid, started, started + seconds


def is_running(pid: int) -> bool:
    """True while a process is there; one that has ended and waits to be looked after counts as gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
