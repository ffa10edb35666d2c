"""What RUN_DIR may be: a run directory, or an output folder, of which the newest run is meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_parallel_run.cli._output import say

if TYPE_CHECKING:
    from prefect_parallel_run.runs.run_directory import RunDirectory


def add_run_command(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], words: str, **more: Any
) -> argparse.ArgumentParser:
    """Add a command about one run, with RUN_DIR and --json; *do* takes the options and returns the exit code."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=words, **{"description": words, **more})
    words = "<output>/_parallel_run/<run>, a path or a URL; of an output folder the newest run is taken"
    command.add_argument("run_directory", metavar="RUN_DIR", help=words)
    add_json(command)
    command.set_defaults(do=do)
    return command


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def open_run(place: str, *, to_look_at: bool = False, reads_plan: bool = False) -> RunDirectory:
    """Return the run directory that is meant by *place*, and tell which it is when it is the newest of an output.

    Args:
        place: As the command line has it.
        to_look_at: Of a run in a store, its rows stay where they are.
        reads_plan: The plan is compared with its hash first, since something is going to be read from it.

    Raises:
        NoRunError: There is none.
        RunFileError: The plan is damaged, or is that of another run.
    """
    from prefect_parallel_run.execution.resume import open_run_directory  # noqa: PLC0415  pandas and Arrow, which --help does not need

    directory = open_run_directory(resolve_run(place), parts=not to_look_at)
    if reads_plan:
        from prefect_parallel_run.runs.integrity import check_plan  # noqa: PLC0415  the same

        check_plan(directory)
    return directory


def resolve_run(place: str) -> str:
    """Return the path or URL of the run that is meant by *place*, and tell which it is when it is the newest of an output."""
    found = _newest_run(place)
    if found is None:
        return place
    say(f"the newest run of {place}: {found}")
    return found


def raise_if_damaged(place: str) -> None:
    """Raise RunFileError when *place* is a run on this machine of which a file is damaged."""
    from prefect_parallel_run.runs.integrity import check  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.run_directory import RunDirectory, place_here  # noqa: PLC0415  the same

    directory = RunDirectory(place_here(_newest_run(place) or place))
    if directory.description.exists() and directory.ledger.exists():
        check(directory)


def _newest_run(place: str) -> str | None:
    """Return the path or URL of the newest run of an output; None for a place that is no output."""
    from prefect_parallel_run.child.storage import is_remote  # noqa: PLC0415  the same
    from prefect_parallel_run.runs.run_directory import FOLDER, runs_below  # noqa: PLC0415  the same

    if is_remote(place):
        from prefect_parallel_run.runs.copies import names_of_runs  # noqa: PLC0415  the same

        output = place.rstrip("/").removesuffix(f"/{FOLDER}")
        if f"/{FOLDER}/" in output:
            return None
        names = names_of_runs(output)
        return f"{output}/{FOLDER}/{names[0]}" if names else None
    folder = Path(place).absolute()
    if (folder / "run.json").exists():
        return None
    runs = folder if folder.name == FOLDER else folder / FOLDER
    newest = next(runs_below(runs, ""), None)
    return None if newest is None else str(newest.path)
