"""Exit codes: their meanings, and the code for each error. Pure."""

from __future__ import annotations

import sqlite3
from enum import IntEnum

from prefect_parallel_run.errors import ParallelRunError, RunLockedError


class Exit(IntEnum):
    """The exit code of a command."""

    SUCCESS = 0
    FAILED = 1
    USAGE_ERROR = 2
    RUN_LOCKED = 3
    CANCELLED = 130
    BROKEN_PIPE = 141


MEANING = {
    Exit.SUCCESS: "success",
    Exit.FAILED: "the run failed (limit exceeded, no successes, lost cluster or disk), or the check found a problem",
    Exit.USAGE_ERROR: "usage error: an invalid option, configuration file or field",
    Exit.RUN_LOCKED: "run is locked by another process",
    Exit.CANCELLED: "cancelled by Ctrl-C or SIGTERM; continue with resume",
    Exit.BROKEN_PIPE: "broken pipe: the reader of the output exited (| head)",
}


class BrokenOutputError(Exception):
    """Broken pipe: the reader of stdout has exited."""


def table() -> str:
    """Return one line per exit code: the code and its meaning."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANING.items())


def exit_code_of(error: BaseException) -> Exit | None:
    """Return the exit code for an error; None for an unexpected one, a bug, whose traceback must be shown."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.CANCELLED
    if isinstance(error, BrokenOutputError):
        return Exit.BROKEN_PIPE
    if isinstance(error, RunLockedError):
        return Exit.RUN_LOCKED
    if isinstance(error, ParallelRunError | sqlite3.Error | OSError):
        return Exit.FAILED
    return Exit.USAGE_ERROR if isinstance(error, ValueError) else None
