"""The functions that the peers run on a mini-batch, a list in and a list of texts out. Importable wherever they work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import jobs
from jobs import dense_network, forest, text_pipeline  # noqa: F401  found here by name, as all functions are

LARGE = 10  #: rows of a large mini-batch
_LARGE_TEXT = "x" * (1_000_000 // LARGE - 1)  #: with its line end, LARGE of them are 1 MB


def warm_up(function: Callable[[list[str]], list[str]]) -> Callable[[list[str]], list[str]]:
    """Return what a process calls before its clock starts: a job loads its model then; the other functions need nothing."""
    return function if function.__module__ == jobs.__name__ else no_op


def no_op(mini_batch):
    """Return the names of paths: the least that a function can do."""
    return [os.path.basename(path) for path in mini_batch]


def large_rows(mini_batch):
    """Return 1 MB of text."""
    return [_LARGE_TEXT] * len(mini_batch)


def spin(mini_batch):
    """Use as many CPU seconds as the path says; return when it was begun and ended."""
    return [_timed(_spin, path) for path in mini_batch]


def sleep(mini_batch):
    """Sleep as many seconds as the path says; return when it was begun and ended."""
    return [_timed(time.sleep, path) for path in mini_batch]


def sleep_by_node(mini_batch):
    """Sleep ten times as long in the one process that comes first to the lock named in LOCK."""
    factor = _slowness()
    return [_timed(lambda seconds: time.sleep(factor * seconds), path) for path in mini_batch]


def seconds_of(path: str) -> float:
    """Return the seconds that a path asks for.

    >>> seconds_of("/tmp/0000012_0.05")
    0.05
    """
    return float(path.rpartition("_")[2])


def _timed(work, path):
    began = time.time()
    work(seconds_of(path))
    return f"{began!r} {time.time()!r}"


def _spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


_factor: list[int] = []


def _slowness() -> int:
    """Return 10 in the first process that asks, 1 in all others."""
    if not _factor:
        try:
            os.close(os.open(os.environ["LOCK"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            _factor.append(10)
        except FileExistsError:
            _factor.append(1)
    return _factor[0]
