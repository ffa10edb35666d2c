"""A step imported from an Azure file, as the values for a ParallelRunStep."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefect_parallel_run.azureml.findings import Difference, Outcome
from prefect_parallel_run.config.base import wrong_fields
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.yaml_file import resolve_variables
from prefect_parallel_run.datasets.base import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedStep:
    """One step of a file.

    ``ParallelRunStep(**step.step_arguments())`` is that step; a configuration of version 1 has no inputs, so pass
    ``inputs=…`` and ``output=…`` as well.
    """

    file: Path
    name: str
    fields: dict[str, Any] = field(repr=False)  #: fields of its ParallelRunConfig; environment variables are secrets
    inputs: Dataset | None = None  #: the input that is split into mini-batches
    output: str | None = None
    side_inputs: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    allow_reuse: bool = True
    places: dict[str, str] = field(default_factory=dict)  #: path or URL of each output of the job
    folders: tuple[str, ...] = ()  #: folders below the output that the script expects
    differences: tuple[Difference, ...] = ()

    @property
    def undecided(self) -> list[Difference]:
        """Return the decisions that are required before the step can run."""
        return [difference for difference in self.differences if difference.outcome is Outcome.OPEN]

    @property
    def config(self) -> ParallelRunConfig:
        """Return the configuration; ``${NAME}`` in environment variables is resolved from the environment.

        Raises:
            ValueError: A field is invalid, or a variable is not set.
        """
        variables = resolve_variables(self.fields.get("environment_variables", {}), str(self.file))
        try:
            return ParallelRunConfig(**{**self.fields, "environment_variables": variables})
        except ValidationError as error:
            raise ValueError(f"{self.file}: {self.name}: {'; '.join(wrong_fields(error).values())}") from None

    def step_arguments(self, *, accept_open: bool = False) -> dict[str, Any]:
        """Return the arguments for ParallelRunStep.

        Args:
            accept_open: Ignore required decisions, so that other rows or inputs may be processed.

        Raises:
            ValueError: A decision is required, or the configuration is invalid.
        """
        if self.undecided and not accept_open:
            decisions = "\n".join(f"  {difference.for_python()}" for difference in self.undecided)
            raise ValueError(f"{self.file}: {self.name} cannot run before these decisions:\n{decisions}")
        return {
            "name": self.name,
            "parallel_run_config": self.config,
            "inputs": self.inputs,
            "output": self.output,
            "side_inputs": self.side_inputs or None,
            "arguments": list(self.arguments) or None,
            "allow_reuse": self.allow_reuse,
        }


def step_name(text: str) -> str:
    """Return a valid step name.

    >>> step_name("batch scoring/1"), step_name("_x")
    ('batch scoring_1', 'x')
    """
    return re.sub(r"[^A-Za-z0-9 _.-]", "_", text).lstrip(" _.-")[:100] or "step"
