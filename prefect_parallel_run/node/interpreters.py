"""The interpreter that an environment is built on, found on this machine."""

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

OLDEST = (3, 9)  #: version that a child can run on
_PYENV = "~/.pyenv/versions"
_ASK = "import json, sys; print(json.dumps([*sys.version_info[:3]]))"
_PATIENCE = 60.0  #: s for an interpreter to say its version


class Base(NamedTuple):
    """An interpreter to build on."""

    python: str  #: its path; or a version, which only uv could find, or fetch
    version: str  #: such as 3.11.7; as far as it is known


def base_of(python: str | None, title: str, *, has_uv: bool) -> Base:
    """Return the interpreter to build on.

    Args:
        python: A version (``3.11``, ``3.11.7``), a path, or None: the interpreter that runs this process.
        title: Of the environment, for errors.
        has_uv: A version that is not found is left to uv, which knows more places and can fetch one.

    Raises:
        EnvironmentSetupError: There is none, or it is too old; the error lists where it was looked for.
    """
    if python is None:
        return Base(sys.executable, ".".join(map(str, sys.version_info[:3])))
    if "/" in python:
        path = str(interpreter_of(python))
        version = version_of(path)
        if version is None or version < OLDEST:
            said = "does not say its version" if version is None else f"is Python {_shown(version)}"
            raise EnvironmentSetupError(title, f"{path} {said}; accepted: an interpreter of Python {_shown(OLDEST)} or later")
        return Base(path, _shown(version))
    wanted = tuple(map(int, python.split(".")))
    looked: list[str] = []
    for place, candidate in _candidates(python):
        looked.append(place)
        version = version_of(candidate) if candidate is not None else None
        if candidate is not None and version is not None and version[: len(wanted)] == wanted:
            return Base(candidate, _shown(version))
    if has_uv:
        return Base(python, python)
    raise EnvironmentSetupError(
        title, f"there is no Python {python}; looked for {', '.join(looked)}, and for uv, which could fetch it"
    )


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the version that an interpreter says it is; None when it does not run, as a shim without one behind it."""
    try:
        asked = subprocess.run([python, "-I", "-S", "-c", _ASK], capture_output=True, timeout=_PATIENCE, check=True)
        return tuple(json.loads(asked.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _candidates(python: str) -> Iterator[tuple[str, str | None]]:
    """Yield every place where *python* (a version) is looked for, and what is there."""
    program = f"python{'.'.join(python.split('.')[:2])}"
    yield f"{program} on PATH", shutil.which(program)
    folder = Path(_PYENV).expanduser()
    found = [path for path in folder.glob(f"{python}*") if re.fullmatch(rf"{re.escape(python)}(\.\d+)?", path.name)]
    newest = max(found, key=lambda path: [int(part) for part in path.name.split(".")], default=None)
    yield f"{_PYENV}/{python}", None if newest is None else str(newest / "bin" / "python")


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
