"""Which interpreter runs the entry script: one that is there, or one that a node makes from a plan."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from prefect_parallel_run.config.where import Environment
from prefect_parallel_run.errors import EnvironmentSetupError

_MOST_BYTES = 1 << 20  #: of a conda file
_CREDENTIALS = re.compile(r"://[^/\s]+@")
_LONGEST_TITLE = 80  #: characters of requirements in it


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentPlan:
    """An environment as it travels to the nodes, which build it: plain values, nothing that lies on the flow's machine."""

    requirements: tuple[str, ...] = field(default=(), repr=False)  #: lines of a requirements file; may have a password in them
    python: str | None = None  #: a version, or the path of an interpreter; None: the one that runs the Dask worker
    conda: str = field(default="", repr=False)  #: content of a conda environment file; "": without conda
    name: str | None = None  #: display text

    @property
    def fingerprint(self) -> str:
        """Return a hash of what is asked for; the name is only for people."""
        asked = [self.requirements, self.python, self.conda]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    @property
    def title(self) -> str:
        """Return what people call it; credentials in it are masked.

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
    """Return what the nodes have to build; the conda file is read here, in the flow process.

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
        raise EnvironmentSetupError(title, f"conda_file {environment.conda_file} {size}; that is no environment file")
    return text


def interpreter_of(environment: str | None) -> str | None:
    """Return the interpreter's path; None stands for the one that runs the Dask worker.

    It looks on the machine that it is called on: in the flow process, or on a node.

    Args:
        environment: Path of an interpreter, or of a virtual environment.

    Raises:
        EnvironmentSetupError: There is no interpreter that could be run.
    """
    if environment is None:
        return None
    place = Path(environment).expanduser().absolute()
    interpreter = place / "bin" / "python" if place.is_dir() else place  # not resolved: a link into a venv is the venv
    if not interpreter.is_file():
        raise EnvironmentSetupError(environment, f"there is no interpreter {interpreter}")
    if not os.access(interpreter, os.X_OK):
        raise EnvironmentSetupError(environment, f"{interpreter} is not executable")
    return str(interpreter)
