"""Writes the stacks of this process for its slot, one signal for those of its threads and one for those of asyncio's tasks.

An event loop that waits has only its own code on the stack of its thread: the coroutines, for which it waits, are not there.
"""

import faulthandler
import os
import signal
import sys
from collections import Counter
from typing import Any, Iterator

THREADS = signal.SIGUSR2  #: faulthandler writes them, even while the process is stuck in C code
TASKS = signal.SIGRTMAX  #: Python code of the main thread writes them, so that thread must not be stuck in C code
END = b"\0"  #: written after the tasks
_MAX_SIZE = 10_000  #: bytes of the tasks' stacks


def write_on_signal(descriptor: int) -> None:
    """Have both signals write to *descriptor*."""
    faulthandler.register(THREADS, file=descriptor, all_threads=True, chain=False)
    signal.signal(TASKS, lambda *_: os.write(descriptor, _waiting_tasks().encode("utf-8", "replace")[:_MAX_SIZE] + END))


def _waiting_tasks() -> str:
    """Return the stacks of the tasks of the running event loop, in the format of faulthandler.

    Equal ones are there once. Short ones are first, those of tasks that wait for others: the last ones may be cut off.
    """
    try:
        tasks = sys.modules["asyncio"].all_tasks()
    except (KeyError, RuntimeError):  # the main thread waits for something else than an event loop
        return ""
    stacks = Counter("".join(_lines(task.get_coro())) for task in tasks)
    return "".join(
        f"{count} {'task waits' if count == 1 else 'tasks wait'} (most recent call first):\n{stack}\n"
        for stack, count in sorted(stacks.items(), key=lambda item: (item[1], len(item[0])))
    )


def _lines(awaitable: Any) -> Iterator[str]:
    """Yield a line for each coroutine of a chain of awaits, the innermost first."""
    frames = []
    while (frame := getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)) is not None:
        frames.append(frame)
        awaitable = getattr(awaitable, "cr_await", None) or getattr(awaitable, "gi_yieldfrom", None)
    for frame in reversed(frames):
        yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n'
