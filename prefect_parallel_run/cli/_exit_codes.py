"""Exit codes: what each of them means, and which one an error ends with. Pure."""

from __future__ import annotations

import sqlite3
from enum import IntEnum

from prefect_parallel_run.errors import ParallelRunError, RunLockedError


class Exit(IntEnum):
    """How a command ended."""

    WELL = 0
    FAILED = 1
    WRONG_USE = 2
    DRIVEN_ELSEWHERE = 3
    CANCELLED = 130
    READER_GONE = 141


MEANING = {
    Exit.WELL: "all is well",
    Exit.FAILED: "the run failed (a limit exceeded, nothing succeeded, cluster or disk lost), or the check found something",
    Exit.WRONG_USE: "wrong use: an option, the configuration file or one of its fields",
    Exit.DRIVEN_ELSEWHERE: "another process drives the run",
    Exit.CANCELLED: "cancelled by Ctrl-C or SIGTERM; resume goes on from there",
    Exit.READER_GONE: "who read the output went away (| head)",
}


class BrokenOutputError(Exception):
    """Nobody reads our output any more."""


def table() -> str:
    """Return the exit codes and their meanings, a line each."""
    return "\n".join(f"  {code:>3}  {words}" for code, words in MEANING.items())


def exit_of(error: BaseException) -> Exit | None:
    """Return what an error ends a command with; None for one that is a defect of ours, and should show its traceback."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.CANCELLED
    if isinstance(error, BrokenOutputError):
        return Exit.READER_GONE
    if isinstance(error, RunLockedError):
        return Exit.DRIVEN_ELSEWHERE
    if isinstance(error, ParallelRunError | sqlite3.Error | OSError):
        return Exit.FAILED
    return Exit.WRONG_USE if isinstance(error, ValueError) else None
