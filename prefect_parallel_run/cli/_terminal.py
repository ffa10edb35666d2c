"""What ``run`` and ``resume`` share: the view of the run, signals, and what can be done next when it has not gone well."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from prefect_parallel_run.cli._output import command
from prefect_parallel_run.errors import (
    ComputeTargetError,
    InputChangedError,
    LimitExceededError,
    ParallelRunError,
    RowsDifferError,
)

if TYPE_CHECKING:
    from prefect_parallel_run.monitoring.terminal import RunView

Suggestion = tuple[str, str]  #: a command line, and what it does


@contextmanager
def driven(given: argparse.Namespace, name: str) -> Iterator[RunView]:
    """Show a run that is driven in this block: as a status line where stderr is a terminal. SIGTERM ends it as Ctrl-C does.

    When the block is left by an error, ``given.next`` has what can be done then. With --json nothing in it reaches stdout.
    """
    from prefect_parallel_run.monitoring.status_line import StatusLine, can_redraw, style_of  # noqa: PLC0415  not for --help
    from prefect_parallel_run.monitoring.terminal import RunView, use_view  # noqa: PLC0415  the same

    view = RunView(name, style_of(sys.stderr))
    with ExitStack() as stack:
        stack.enter_context(use_view(view))
        if can_redraw(sys.stderr):
            stack.enter_context(StatusLine(sys.stderr, view.line))
        if given.json:
            stack.enter_context(redirect_stdout(sys.stderr))
        raise_on_sigterm()
        try:
            yield view
        except BaseException as error:
            place = str(view.directory.path) if view.directory is not None else given.place
            if place is not None:
                given.next = next_steps(error, place)
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt("cancelled" + ("; what is finished is kept" if place is not None else "")) from None
            raise


def next_steps(error: BaseException, place: str) -> list[Suggestion]:
    """Return what a person may want to do after *error* ended the run in *place*."""
    resume = command("resume", place)
    if isinstance(error, LimitExceededError):
        from prefect_parallel_run.monitoring.status_text import next_after_limit  # noqa: PLC0415  not for --help

        options = [(f"{resume} {option}", does) for option, does in next_after_limit(error.limit)]
        return [(command("failed", place), "what failed, by cause"), *options]
    if isinstance(error, RowsDifferError):  # what is finished would be kept by resume, whatever the script is then
        return [(command("replay", place, "--mini-batch", error.mini_batch), "see what run() returns for these rows")]
    if isinstance(error, InputChangedError):
        return [(f"{resume} --accept-changes", "keep what is finished and plan anew what changed")]
    if isinstance(error, KeyboardInterrupt | ComputeTargetError | OSError):
        return [(resume, "go on from there")]
    if isinstance(error, ParallelRunError):
        return [(command("failed", place), "what failed, by cause"), (resume, "go on once that is mended")]
    return []


def raise_on_sigterm() -> None:
    """Have SIGTERM end the run as Ctrl-C does: children gone, the ledger closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
