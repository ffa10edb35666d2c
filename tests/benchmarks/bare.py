"""The limit: the same function in two bare processes, by hand. Nothing is timed, counted or tried again there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import functions
from peers import PROCESSES, mini_batches


def run(function: str, listed: str, size: int, target: str) -> dict[str, Any]:
    """Run a function in two processes written by hand: each has its half of the paths ready and writes a part of its own."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES + 1)
    clock = context.Array("d", PROCESSES)  # when each began: this process may be the last to be woken
    arguments = (barrier, clock, function, listed, size, target)
    workers = [context.Process(target=_half, args=(*arguments, half)) for half in range(PROCESSES)]
    for worker in workers:
        worker.start()
    barrier.wait()
    barrier.wait()
    with Path(target).open("wb") as file:
        for half in range(PROCESSES):
            with Path(f"{target}.{half}").open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
            os.unlink(f"{target}.{half}")
    seconds = time.perf_counter() - min(clock)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise ChildProcessError(f"a bare process exited with status {worker.exitcode}")
    return {"seconds": seconds}


def _half(barrier: Any, clock: Any, function: str, listed: str, size: int, target: str, half: int) -> None:
    called, work = getattr(functions, function), mini_batches(listed, size)
    part = range(half * len(work) // PROCESSES, (half + 1) * len(work) // PROCESSES)
    functions.warm_up(called)(work[0][:1])
    with Path(f"{target}.{half}").open("w") as file:
        barrier.wait()
        clock[half] = time.perf_counter()
        for index in part:
            file.write("\n".join(called(work[index])) + "\n")
    barrier.wait()
