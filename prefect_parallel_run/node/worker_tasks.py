"""Runs tasks of the flow process that are not mini-batches on a Dask worker, and stops them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from prefect_parallel_run._threads import Cancelled, CheckCancelled

T = TypeVar("T")
R = TypeVar("R")
_STOP_TIMEOUT = 30.0  #: s for running tasks to notice that they are stopped
_stopped: set[str] = set()  # tokens
_running: Counter[str] = Counter()  # tasks that are running in this process, by token
_changed = threading.Condition()


class TaskRefusedError(Exception):
    """This machine lacks what the task needs, which is not a fault; another process must run it."""


def run_task(token: str, function: Callable[[T, CheckCancelled], R], task: T) -> R:
    """Run *function*, as a Dask task; ``stop_tasks`` with the same token makes its cancellation check raise Cancelled."""
    with _changed:
        _running[token] += 1
    try:
        _check(token)
        return function(task, partial(_check, token))
    finally:
        with _changed:
            _running[token] -= 1
            _changed.notify_all()


async def stop_tasks(token: str) -> None:
    """Stop the tasks with this token on this worker, and return when they have ended; no further one starts."""
    _stopped.add(token)
    await asyncio.to_thread(_wait_until_idle, token)


def _check(token: str) -> None:
    if token in _stopped:
        raise Cancelled


def _wait_until_idle(token: str) -> Any:
    with _changed:
        return _changed.wait_for(lambda: not _running[token], _STOP_TIMEOUT)
