"""Resolves RUN_DIR: a run directory, or an output folder, which stands for its newest run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._output import notify

if TYPE_CHECKING:
    from prefect_parallel_run.runs.run_directory import RunDirectory


def add_run_command(
    commands: Any, name: str, handler: Callable[[argparse.Namespace], int], help_text: str, **more: Any
) -> argparse.ArgumentParser:
    """Add a command about one run, with RUN_DIR and --json; *handler* takes the parsed options and returns the exit code."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, **{"description": help_text, **more})
    run_directory = "<output>/_parallel_run/<run> as a path or URL; an output folder stands for its newest run"
    command.add_argument("run_directory", metavar="RUN_DIR", help=run_directory)
    add_json(command)
    command.set_defaults(handler=handler)
    return command


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    command.add_argument("--json", action="store_true", help="print only JSON on stdout")


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
    from prefect_parallel_run.execution.resume import open_run_directory

    directory = open_run_directory(resolve_run(path), parts=not metadata_only)
    if verify_plan:
        from prefect_parallel_run.runs.integrity import check_plan

        check_plan(directory)
    return directory


def resolve_run(path: str) -> str:
    """Return the path or URL of the run that *path* stands for; print it if it is the newest run of an output."""
    newest = _newest_run(path)
    if newest is None:
        return path
    notify(f"the newest run of {path}: {newest}")
    return newest


def raise_if_damaged(path: str) -> None:
    """Raise RunFileError if *path* is a run on this machine with a damaged file."""
    from prefect_parallel_run.runs.integrity import check
    from prefect_parallel_run.runs.run_directory import RunDirectory, local_run_path

    directory = RunDirectory(local_run_path(_newest_run(path) or path))
    if directory.description.exists() and directory.ledger.exists():
        check(directory)


def _newest_run(path: str) -> str | None:
    """Return the path or URL of the newest run of an output; None if *path* is not an output."""
    from prefect_parallel_run.child.storage import is_remote
    from prefect_parallel_run.runs.run_directory import runs_below
    from prefect_parallel_run.storage.paths import RUNS_FOLDER

    if is_remote(path):
        from prefect_parallel_run.runs.copies import run_names

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
