"""Resolves the interpreter that runs the entry script: an existing one, or one in an environment that nodes build."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_parallel_run.errors import EnvironmentSetupError

if TYPE_CHECKING:  # a node must not wait for pydantic
    from prefect_parallel_run.config.where import Environment

_MOST_BYTES = 1 << 20  #: maximum size of a conda file
_CREDENTIALS = re.compile(r"://[^/\s]+@")
_LONGEST_TITLE = 80  #: characters of requirements in a title


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentPlan:
    """An environment that is sent to the nodes, which build it: plain values without references to local files."""

    requirements: tuple[str, ...] = field(default=(), repr=False)  #: lines of a requirements file; may contain a password
    python: str | None = None  #: a version, or the path of an interpreter; None: the Dask worker's interpreter
    conda: str = field(default="", repr=False)  #: content of a conda environment file; "": no conda
    name: str | None = None  #: display text

    @property
    def fingerprint(self) -> str:
        """Return a hash of all fields except the name, which is for display only."""
        content = [self.requirements, self.python, self.conda]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def title(self) -> str:
        """Return a display name without credentials.

        >>> EnvironmentPlan(requirements=("six", "numpy==2.1")).title
        'with six, numpy==2.1'
        """
        if self.name:
            return self.name
        parts = (["a conda file"] if self.conda else []) + list(self.requirements)
        text = without_credentials(", ".join(parts))
        if not parts:
            return "without packages"
        return f"with {text}" if len(text) <= _LONGEST_TITLE else f"with {len(parts)} requirements"


def environment_plan(environment: Environment) -> EnvironmentPlan:
    """Return the plan of an environment; reads the conda file here, in the flow process.

    Raises:
        EnvironmentSetupError: The conda file cannot be read.
    """
    return EnvironmentPlan(
        requirements=tuple(environment.requirements),
        python=environment.python,
        conda=_conda_text(environment),
        name=environment.name,
    )


def without_credentials(text: str) -> str:
    """Return *text* with user names and passwords in URLs masked.

    >>> without_credentials("--index-url https://me:secret@host/simple")
    '--index-url https://***@host/simple'
    """
    return _CREDENTIALS.sub("://***@", text)


def _conda_text(environment: Environment) -> str:
    if environment.conda_file is None:
        return ""
    title = environment.name or environment.conda_file
    try:
        with Path(environment.conda_file).open(encoding="utf-8") as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentSetupError(title, f"conda_file {environment.conda_file} cannot be read: {error}") from error
    if not text.strip() or len(text) > _MOST_BYTES:
        size = "is empty" if not text.strip() else f"is over {_MOST_BYTES} bytes"
        raise EnvironmentSetupError(title, f"conda_file {environment.conda_file} {size}; expected a conda environment file")
    return text


def interpreter_of(environment: str | None) -> str | None:
    """Return the interpreter's path; None means the Dask worker's interpreter.

    The path is checked on the calling machine: in the flow process, or on a node.

    Args:
        environment: Path of an interpreter, or of a virtual environment.

    Raises:
        EnvironmentSetupError: The interpreter does not exist, or is not executable.
    """
    if environment is None:
        return None
    path = Path(environment).expanduser().absolute()
    interpreter = path / "bin" / "python" if path.is_dir() else path  # links are not resolved: a link into a venv selects it
    if not interpreter.is_file():
        raise EnvironmentSetupError(environment, f"the interpreter {interpreter} does not exist")
    if not os.access(interpreter, os.X_OK):
        raise EnvironmentSetupError(environment, f"{interpreter} is not executable")
    return str(interpreter)
