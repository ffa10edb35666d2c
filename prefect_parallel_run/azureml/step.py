"""A step as a file of Azure's describes it, in the values that a ParallelRunStep is made of."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefect_parallel_run.azureml.findings import Difference, Outcome
from prefect_parallel_run.config.model import ParallelRunConfig, wrong_fields
from prefect_parallel_run.datasets.base import Dataset

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedStep:
    """What a file says of one step.

    ``ParallelRunStep(**step.step_arguments())`` is that step; for a configuration of version 1, which knows no inputs, pass
    ``inputs=…`` and ``output=…`` beside it.
    """

    file: Path
    name: str
    fields: dict[str, Any] = field(repr=False)  #: of its ParallelRunConfig; environment variables are secrets
    inputs: Dataset | None = None  #: what is split into mini-batches
    output: str | None = None
    side_inputs: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    allow_reuse: bool = True
    places: dict[str, str] = field(default_factory=dict)  #: where each output of the job lies
    folders: tuple[str, ...] = ()  #: below the output, where the script expects them
    differences: tuple[Difference, ...] = ()

    @property
    def undecided(self) -> list[Difference]:
        """Return what a person has to decide before the step may run."""
        return [one for one in self.differences if one.outcome is Outcome.OPEN]

    @property
    def config(self) -> ParallelRunConfig:
        """Return the configuration; ``${NAME}`` in environment variables is read from the environment.

        Raises:
            ValueError: A field is wrong, or a variable is not set.
        """
        variables = {name: self._variable(name, text) for name, text in self.fields.get("environment_variables", {}).items()}
        try:
            return ParallelRunConfig(**{**self.fields, "environment_variables": variables})
        except ValidationError as error:
            said = (text.removeprefix("Value error, ") for text in wrong_fields(error).values())
            raise ValueError(f"{self.file}: {self.name}: {'; '.join(said)}") from None

    def step_arguments(self, *, accept_open: bool = False) -> dict[str, Any]:
        """Return what ParallelRunStep takes.

        Args:
            accept_open: Do not mind what is still to be decided: other rows, or other inputs, may be processed then.

        Raises:
            ValueError: Something is still to be decided, or the configuration is wrong.
        """
        if self.undecided and not accept_open:
            words = "\n".join(f"  {one.for_python()}" for one in self.undecided)
            raise ValueError(f"{self.file}: {self.name} cannot be run before this is decided:\n{words}")
        return {
            "name": self.name,
            "parallel_run_config": self.config,
            "inputs": self.inputs,
            "output": self.output,
            "side_inputs": self.side_inputs or None,
            "arguments": list(self.arguments) or None,
            "allow_reuse": self.allow_reuse,
        }

    def make_folders(self) -> None:
        """Make the folders below the output that are there in Azure when a script starts."""
        for folder in self.folders:
            Path(folder).mkdir(parents=True, exist_ok=True)

    def _variable(self, name: str, text: str) -> str:
        reference = _VARIABLE.fullmatch(text)
        if reference is None:
            return text
        if reference[1] not in os.environ:
            raise ValueError(f"{self.file}: environment_variables[{name!r}] refers to {reference[1]}, which is not set")
        return os.environ[reference[1]]


def variable_asked_for(name: str, text: str) -> str:
    """Return the variable of the environment that holds the value of a step's variable: the one it refers to, or its own.

    >>> variable_asked_for("TOKEN", "${MY_TOKEN}"), variable_asked_for("TOKEN", "secret")
    ('MY_TOKEN', 'TOKEN')
    """
    reference = _VARIABLE.fullmatch(text)
    return reference[1] if reference is not None else name


def step_name(text: str) -> str:
    """Return a name that a step may have.

    >>> step_name("batch scoring/1"), step_name("_x")
    ('batch scoring_1', 'x')
    """
    return re.sub(r"[^A-Za-z0-9 _.-]", "_", text).lstrip(" _.-")[:100] or "step"
