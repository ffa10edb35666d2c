"""Which interpreter runs the entry script."""

from __future__ import annotations

import os
from pathlib import Path

from prefect_parallel_run.config import Environment
from prefect_parallel_run.errors import EnvironmentSetupError


def interpreter_of(environment: str | Environment | None) -> str | None:
    """Return the interpreter's path; None stands for the one that runs the Dask worker.

    Args:
        environment: Path of an interpreter, or of a virtual environment.

    Raises:
        EnvironmentSetupError: There is no interpreter that could be run.
    """
    if environment is None:
        return None
    if isinstance(environment, Environment):
        raise EnvironmentSetupError(environment.name or "with requirements", "this version cannot build environments")
    place = Path(environment).expanduser().absolute()
    interpreter = place / "bin" / "python" if place.is_dir() else place  # not resolved: a link into a venv is the venv
    if not interpreter.is_file():
        raise EnvironmentSetupError(environment, f"there is no interpreter {interpreter}")
    if not os.access(interpreter, os.X_OK):
        raise EnvironmentSetupError(environment, f"{interpreter} is not executable")
    return str(interpreter)
