"""Faults: how soon a process that must go is gone, and how soon the next mini-batch runs in its place.

A crash is the script's own os._exit, a timeout a run() that sleeps; the peer is an interpreter's start with the same import,
which no replacement can do without. A limit that is exceeded is told from the end of the run() that failed, while another
process is in the middle of a long one.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import steps
from bench import Bench
from measure import OURS, Table

NEXT = f"{OURS}, gone to next run() there"
_LATE = f"{OURS}, over run_invocation_timeout until gone"
_STOPPED = f"{OURS}, failing run() to the step's error"
_ALL_GONE = f"{OURS}, failing run() to all children gone"
_TIMEOUT = 1.0  #: s, run_invocation_timeout
_PATIENCE = 60.0  #: s for anything to happen


def measure(bench: Bench) -> Iterator[Table]:
    cases = (
        (("crash", None),) if bench.gate else (("crash", None), ("crash", "pandas"), ("timeout", None), ("timeout", "pandas"))
    )
    with bench.folder() as folder:
        for how, module in cases:
            imports = f"import {module}" if module else "pass"
            start = f"python -c '{imports}'"

            def ours(how: str = how, module: str | None = module) -> dict[str, float]:
                return bench.ours("faults:replace", str(folder), how, module)

            def interpreter(imports: str = imports, start: str = start) -> dict[str, float]:
                began = time.perf_counter()
                subprocess.run([sys.executable, "-c", imports], check=True)
                return {start: 1000 * (time.perf_counter() - began)}

            ours()
            parts = {"next": NEXT, **({"late": _LATE} if how == "timeout" else {})}
            case = f"one {how}, the script imports {module or 'nothing'}"
            yield from bench.in_turn_by_part(
                "faults", case, "ms", [(ours, parts), (interpreter, {start: start})], baseline=NEXT
            )
        if not bench.gate:

            def exceeded() -> dict[str, float]:
                return bench.ours("faults:exceed", str(folder))

            parts = {"stopped": _STOPPED, "gone": _ALL_GONE}
            yield from bench.in_turn_by_part("faults", "a limit is exceeded", "ms", [(exceeded, parts)], baseline=_STOPPED)


def replace(place: str, how: str, module: str | None) -> dict[str, float]:
    """Run a step whose one process fails once; called in its flow process. All in ms."""
    with _Watched(Path(place)) as watched:
        inputs = watched.files([f"{number:03d}" + ("_bad" if number == 5 else "") for number in range(30)])
        arguments = ["--how", how, "--watched", str(watched.fifo), *(["--import", module] if module else [])]
        step = steps.make_step(
            "faulty.py",
            inputs,
            watched.output,
            arguments=arguments,
            mini_batch_size=1,
            process_count_per_node=1,
            run_invocation_timeout=_TIMEOUT,
        )
        found = steps.run_step(step)
        query = "SELECT started FROM attempts WHERE outcome <> 'succeeded'"
        ((failed,),) = steps.attempts(found.run_directory, query)
        gone = watched.gone()
        following = [began for _, began, _ in steps.processes_of(found.run_directory) if began > gone]
    return {"next": 1000 * (min(following) - gone), "late": 1000 * (gone - failed - _TIMEOUT)}


def exceed(place: str) -> dict[str, float]:
    """Run a step that is stopped by its first failure, while its other process is busy; called in its flow process. In ms."""
    from prefect_parallel_run.errors import LimitExceededError

    with _Watched(Path(place)) as watched:
        inputs = watched.files(["000_slow", *(f"{number:03d}" for number in range(1, 20)), "020_bad"])
        arguments = ["--how", "raise", "--watched", str(watched.fifo)]
        step = steps.make_step("faulty.py", inputs, watched.output, arguments=arguments, mini_batch_size=1, run_max_try=1)
        try:
            step()
        except LimitExceededError:
            stopped = time.time()
        else:
            raise AssertionError("the limit was not exceeded")
        (directory,) = watched.output.glob("_parallel_run/benchmark-*")
        query = "SELECT started + seconds FROM attempts WHERE outcome = 'raised'"
        ((failed,),) = steps.attempts(directory, query)
        return {"stopped": 1000 * (stopped - failed), "gone": 1000 * (watched.gone() - failed)}


class _Watched:
    """Tells when the processes that hold a FIFO open are gone; files and output of a step beside it."""

    def __init__(self, place: Path) -> None:
        self._place = place / f"watched-{time.monotonic_ns()}"
        self.fifo, self.output = self._place / "fifo", self._place / "out"

    def __enter__(self) -> _Watched:
        self._place.mkdir()
        os.mkfifo(self.fifo)
        self._reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._ended: float | None = None
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(os.open(self.fifo, os.O_WRONLY))  # ends the watch where no process has come
        self._thread.join()
        os.close(self._reader)
        shutil.rmtree(self._place)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN | select.POLLHUP)
        while True:
            for _, event in poll.poll():
                if event & select.POLLIN:
                    os.read(self._reader, 100)
                elif event & select.POLLHUP:
                    self._ended = time.time()
                    return

    def files(self, names: list[str]) -> Path:
        folder = self._place / "in"
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        return folder

    def gone(self) -> float:
        """Return when they were gone, Unix time, s."""
        self._thread.join(_PATIENCE)
        if self._ended is None:
            raise TimeoutError("the process that had to go is still there")
        return self._ended
