"""Finds the base interpreter of an environment on this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.environments import interpreter_of
from prefect_parallel_run.errors import EnvironmentSetupError

OLDEST = (3, 9)  #: oldest version that a child can run on
_PYENV = "~/.pyenv/versions"
_PRINT_VERSION = "import json, sys; print(json.dumps([*sys.version_info[:3]]))"
_PATIENCE = 60.0  #: s for an interpreter to print its version


class Base(NamedTuple):
    """A base interpreter."""

    python: str  #: its path; or a version that only uv could find or download
    version: str  #: such as 3.11.7, as precise as known


def base_of(python: str | None, title: str, *, has_uv: bool) -> Base:
    """Return the base interpreter of an environment.

    Args:
        python: A version (``3.11``, ``3.11.7``), a path, or None: the interpreter of this process.
        title: Name of the environment, for errors.
        has_uv: A version that is not found is left to uv, which searches more locations and can download one.

    Raises:
        EnvironmentSetupError: It does not exist or is too old; the error lists the searched locations.
    """
    if python is None:
        return Base(sys.executable, ".".join(map(str, sys.version_info[:3])))
    if "/" in python:
        path = str(interpreter_of(python))
        version = version_of(path)
        if version is None or version < OLDEST:
            problem = "does not print its version" if version is None else f"is Python {_dotted(version)}"
            raise EnvironmentSetupError(
                title, f"{path} {problem}; expected an interpreter of Python {_dotted(OLDEST)} or later"
            )
        return Base(path, _dotted(version))
    wanted = tuple(map(int, python.split(".")))
    searched: list[str] = []
    for location, candidate in _candidates(python):
        searched.append(location)
        version = version_of(candidate) if candidate is not None else None
        if candidate is not None and version is not None and version[: len(wanted)] == wanted:
            return Base(candidate, _dotted(version))
    if has_uv:
        return Base(python, python)
    raise EnvironmentSetupError(
        title, f"there is no Python {python}; looked for {', '.join(searched)}, and for uv, which could download it"
    )


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the version that an interpreter reports; None when it does not run, such as a shim without an interpreter."""
    try:
        completed = subprocess.run(
            [python, "-I", "-S", "-c", _PRINT_VERSION], capture_output=True, timeout=_PATIENCE, check=True
        )
        return tuple(json.loads(completed.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _candidates(python: str) -> Iterator[tuple[str, str | None]]:
    """Yield every location where *python* (a version) is searched, and the interpreter found there."""
    program = f"python{'.'.join(python.split('.')[:2])}"
    yield f"{program} on PATH", shutil.which(program)
    folder = Path(_PYENV).expanduser()
    installed = [path for path in folder.glob(f"{python}*") if re.fullmatch(rf"{re.escape(python)}(\.\d+)?", path.name)]
    newest = max(installed, key=lambda path: [int(part) for part in path.name.split(".")], default=None)
    yield f"{_PYENV}/{python}", None if newest is None else str(newest / "bin" / "python")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
