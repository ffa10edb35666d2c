"""Shared parts of the commands about one run: RUN_DIR, options that override its configuration, and the status line."""

from __future__ import annotations

import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
from rich.console import RenderableType
from rich.table import Table

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.cli._command import RUN_DIR, Command, command, emit_raw, notify, suggest_after_error
from prefect_parallel_run.errors import (
    ComputeTargetError,
    InputChangedError,
    LimitExceededError,
    ParallelRunError,
    RowsDifferError,
)
from prefect_parallel_run.monitoring.status import next_after_limit
from prefect_parallel_run.monitoring.terminal import RunView, StatusLine, can_redraw, console_of, use_view
from prefect_parallel_run.runs.mirror import pull, run_names
from prefect_parallel_run.runs.run_directory import RunDirectory, local_run_path, no_run_error, runs_below
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_ABOUT_EMPTY = re.compile(r" or empty|[;.] [Ee]mpty: [^.;]*")  #: applies to a form's field, not to an option
Suggestion = tuple[str, str]  #: a command line, and its effect


class RunCommand(Command):
    """A command whose first argument is RUN_DIR. If a damaged file of the run causes an error, it reports that file instead."""

    def __init__(self, *arguments: Any, metavar: str = "RUN_DIR", epilog: str = "", **options: Any) -> None:
        super().__init__(*arguments, epilog=f"{RUN_DIR}\n\n{epilog}" if metavar == "RUN_DIR" else epilog, **options)
        self.params.insert(0, click.Argument(["run_directory"], metavar=metavar))

    def execute(self, ctx: click.Context) -> Any:
        """Call the function of the command."""
        try:
            return super().execute(ctx)
        except (sqlite3.Error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            _raise_if_damaged(ctx.params["run_directory"])
            raise


def config_option(name: str) -> click.Option:
    """Return an option that overrides a field of the configuration, with the field's type and description."""
    from prefect_parallel_run.config.model import ParallelRunConfig  # noqa: PLC0415  pydantic: 0.2 s that few commands need

    hint = get_type_hints(ParallelRunConfig)[name]
    kinds = get_args(hint) or (hint,)
    description = _ABOUT_EMPTY.sub("", str(ParallelRunConfig.model_fields[name].description))
    return click.Option([f"--{name.replace('_', '-')}"], type=str if str in kinds else kinds[0], help=description)


def emit_styled(renderable: RenderableType) -> None:
    """Print with rich: colors at a terminal; elsewhere plain text, in which every line stays whole for grep."""
    console = console_of(sys.stdout)
    with console.capture() as captured:
        console.print(renderable, soft_wrap=not isinstance(renderable, Table))
    emit_raw("\n".join(line.rstrip() for line in captured.get().split("\n")))


def open_run(path: str, *, metadata_only: bool = False, verify_plan: bool = False) -> RunDirectory:
    """Return the run directory that *path* stands for; see :func:`resolve_run`.

    Args:
        path: The RUN_DIR of the command line.
        metadata_only: Do not fetch the rows of a run in a store.
        verify_plan: Compare the plan with its hash before anything reads it.

    Raises:
        NoRunError: The run does not exist.
        RunFileError: The plan is damaged or belongs to another run.
    """
    directory = open_run_directory(resolve_run(path), parts=not metadata_only)
    if verify_plan:
        from prefect_parallel_run.runs.integrity import check_plan  # noqa: PLC0415  pyarrow: 0.3 s that few commands need

        check_plan(directory)
    return directory


def open_run_directory(location: str, *, parts: bool = True) -> RunDirectory:
    """Return the run directory at a path or URL; raises NoRunError when there is none.

    A remote run is copied to this machine first, unless its last execution was here. Without *parts* it can only be viewed.
    """
    directory = RunDirectory(local_run_path(location))
    if is_remote(location):
        directory.path.parent.mkdir(parents=True, exist_ok=True)
        pull(location.rstrip("/"), directory.path, parts=parts)
    if not directory.description.is_file():
        raise no_run_error(location, directory)
    return directory


def resolve_uri(reference: str) -> str:
    """Return the value of a reference to a Prefect block in the URI of a database."""
    from prefect_parallel_run.compute.blocks import resolve_reference  # noqa: PLC0415  Prefect takes seconds, and few inputs need it

    return resolve_reference(reference)


def resolve_run(path: str) -> str:
    """Return the path or URL of the run that *path* stands for; print it if it is the newest run of an output."""
    newest = _newest_run(path)
    if newest is None:
        return path
    notify(f"the newest run of {path}: {newest}")
    return newest


def _raise_if_damaged(path: str) -> None:
    """Raise RunFileError if *path* is a run on this machine with a damaged file."""
    directory = RunDirectory(local_run_path(_newest_run(path) or path))
    if directory.description.exists() and directory.ledger.exists():
        from prefect_parallel_run.runs.integrity import check  # noqa: PLC0415  pyarrow: 0.3 s that only a failure needs

        check(directory)


def _newest_run(path: str) -> str | None:
    """Return the path or URL of the newest run of an output; None if *path* is not an output."""
    if is_remote(path):
        output = path.rstrip("/").removesuffix(f"/{RUNS_FOLDER}")
        if f"/{RUNS_FOLDER}/" in output:
            return None
        names = run_names(output)
        return f"{output}/{RUNS_FOLDER}/{names[0]}" if names else None
    folder = Path(path).absolute()
    if (folder / "run.json").exists():
        return None
    runs = folder if folder.name == RUNS_FOLDER else folder / RUNS_FOLDER
    newest = next(runs_below(runs, ""), None)
    return None if newest is None else str(newest.path)


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
