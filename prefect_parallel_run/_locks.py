"""File locks, which the operating system releases when their holder dies, even when it is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def open_lock(path: Path, mode: int = 0o600) -> int:
    """Return the descriptor of a lock file, created if necessary; closing it releases its lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file without waiting; False when another process or descriptor holds its lock."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, pause: Callable[[], None] | None = None) -> Iterator[int]:
    """Hold the lock of *path*, and provide its descriptor.

    Args:
        path: The lock file, created if necessary.
        pause: Sleeps between two attempts, and raises to give up; None: wait until the lock is free.
    """
    descriptor = open_lock(path)
    try:
        if pause is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            while not try_lock(descriptor):
                pause()
        yield descriptor
    finally:
        os.close(descriptor)
