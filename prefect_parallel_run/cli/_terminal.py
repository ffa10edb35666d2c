"""Shared by ``run`` and ``resume``: the view of the run, signals, and next steps after a failure."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout

from prefect_parallel_run.cli._command import suggest_after_error
from prefect_parallel_run.cli._output import command
from prefect_parallel_run.errors import (
    ComputeTargetError,
    InputChangedError,
    LimitExceededError,
    ParallelRunError,
    RowsDifferError,
)
from prefect_parallel_run.monitoring.status import next_after_limit
from prefect_parallel_run.monitoring.terminal import RunView, StatusLine, can_redraw, use_view

Suggestion = tuple[str, str]  #: a command line, and its effect


@contextmanager
def terminal_view(name: str, *, as_json: bool, run_directory: str | None = None) -> Iterator[RunView]:
    """Show the run that executes in this block: as a status line if stderr is a terminal. SIGTERM acts like Ctrl-C.

    If the block raises, the command suggests next steps. With *as_json*, nothing in the block reaches stdout.

    Args:
        name: Name of the step.
        as_json: Keep stdout for the result.
        run_directory: The run, if it is known before it executes.
    """
    view = RunView(name)
    with ExitStack() as stack:
        stack.enter_context(use_view(view))
        if can_redraw(sys.stderr):
            stack.enter_context(StatusLine(sys.stderr, view))
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        raise_on_sigterm()
        try:
            yield view
        except BaseException as error:
            path = str(view.directory.path) if view.directory is not None else run_directory
            if path is not None:
                suggest_after_error(next_steps(error, path))
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(
                    "cancelled" + ("; completed mini-batches are kept" if path is not None else "")
                ) from None
            raise


def next_steps(error: BaseException, path: str) -> list[Suggestion]:
    """Return the suggested next steps after *error* ended the run in *path*."""
    resume = command("resume", path)
    if isinstance(error, LimitExceededError):
        options = [(f"{resume} {option}", effect) for option, effect in next_after_limit(error.limit)]
        return [(command("failed", path), "list failures by cause"), *options]
    if isinstance(error, RowsDifferError):  # resume would keep the completed mini-batches even after the script is fixed
        return [
            (command("replay", path, "--mini-batch", error.mini_batch), "show the rows that run() returns for this mini-batch")
        ]
    if isinstance(error, InputChangedError):
        return [(f"{resume} --accept-changes", "keep completed mini-batches and plan the changed inputs again")]
    if isinstance(error, KeyboardInterrupt | ComputeTargetError | OSError):
        return [(resume, "resume the run")]
    if isinstance(error, ParallelRunError):
        return [(command("failed", path), "list failures by cause"), (resume, "resume after fixing the cause")]
    return []


def raise_on_sigterm() -> None:
    """Make SIGTERM act like Ctrl-C, so that child processes are killed and the ledger is closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
