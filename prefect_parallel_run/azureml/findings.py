"""The result of a migration: what became of each field of Azure's files, and the step."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.config.base import construct
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.yaml_file import resolve_variables
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.datasets.base import Dataset

_MAX_CHARACTERS = 120  #: in the displayed value of a field


class Outcome(str, Enum):
    """Result for a field."""

    TAKEN = "taken over"
    CHANGED = "changed"  #: taken over with a slightly different meaning
    LEFT = "left out"  #: not supported here
    OPEN = "open"  #: requires a decision before the step can run: it would process other inputs or rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The result for one field."""

    field: str  #: its path, such as ``task.environment.image``
    outcome: Outcome
    given: str = ""  #: its value as text; empty for secrets
    here: str = ""  #: its equivalent here
    why: str = ""  #: the difference, and what to do about it
    reference: str = ""  #: the mappable reference: REFERENCE of --map, a key of references=
    wanted: str = "PLACE"  #: kind of the mapped value: PLACE or VALUE

    def __str__(self) -> str:
        given = f" {self.given}" if self.given else ""
        here = f" -> {self.here}" if self.here else ""
        return f"{self.field}{given}: {self.outcome.value}{here}" + (f"; {self.why}" if self.why else "")

    def for_command(self) -> str:
        """Return it as text, with the --map option that helps."""
        return f"{self}: --map {shlex.quote(f'{self.reference}={self.wanted}')}" if self.reference else str(self)

    def for_python(self) -> str:
        """Return it as text, with the argument of ``load`` that helps."""
        return f"{self}: references={{{self.reference!r}: {self.wanted}}}" if self.reference else str(self)


@dataclass(slots=True)
class MigrationFindings:
    """Collects differences in the order of the fields."""

    differences: list[Difference] = field(default_factory=list)

    def taken(self, name: str, given: Any, here: str) -> None:
        """Record a field with the same meaning here."""
        self._add(name, Outcome.TAKEN, given, here=here)

    def changed(self, name: str, given: Any, here: str, why: str, reference: str = "") -> None:
        """Record a field with a different meaning here; *reference* can be mapped to change that."""
        self._add(name, Outcome.CHANGED, given, here=here, why=why, reference=reference)

    def left_out(self, name: str, given: Any, why: str) -> None:
        """Record a field without an equivalent here."""
        self._add(name, Outcome.LEFT, given, why=why)

    def left_out_of(self, section: Section, reasons: Mapping[str, str], prefix: str = "") -> None:
        """Record the fields of *section* with a reason why they have no equivalent here; *prefix* is the section's path."""
        for key in sorted(key for key in section if reasons.get(key)):
            self.left_out(f"{prefix}{key}", section[key], reasons[key])

    def open(self, name: str, given: Any, why: str, reference: str = "") -> None:
        """Record a field that requires a decision, for example by mapping *reference*."""
        self._add(name, Outcome.OPEN, given, why=why, reference=reference)

    def open_value(self, name: str, reference: str) -> None:
        """Record an input for a string or number that has no value; the user can map *reference* to one."""
        self._add(name, Outcome.OPEN, None, why="no value in this file; provide one", reference=reference, wanted="VALUE")

    def add(self, others: Iterable[Difference], prefix: str = "") -> None:
        """Add differences found elsewhere, with *prefix* before their fields."""
        self.differences += [replace(other, field=f"{prefix}{other.field}") for other in others]

    def _add(self, name: str, outcome: Outcome, given: Any, **details: str) -> None:
        self.differences.append(Difference(field=name, outcome=outcome, given=as_text(given), **details))


def as_text(value: Any) -> str:
    """Return a field's value as the file would show it, truncated.

    >>> as_text(True), as_text(None), as_text("x" * 200)[-3:]
    ('true', '', 'xx…')
    """
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


class StepCall(NamedTuple):
    """The other arguments of a ParallelRunStep, besides its name and configuration."""

    inputs: Dataset | None = None  #: the input that is split into mini-batches
    output: str | None = None
    side_inputs: Mapping[str, str] = {}
    arguments: tuple[str, ...] = ()
    allow_reuse: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedStep:
    """One step of a file.

    ``ParallelRunStep(**step.step_arguments())`` is that step; a configuration of version 1 has no inputs, so pass
    ``inputs=…`` and ``output=…`` as well.
    """

    file: Path
    name: str
    fields: dict[str, Any] = field(repr=False)  #: fields of its ParallelRunConfig; environment variables are secrets
    call: StepCall = field(default_factory=StepCall)
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
        values = {**self.fields, "environment_variables": variables}
        return construct(ParallelRunConfig, values, lambda _, message: f"{self.file}: {self.name}: {message}")

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
        optional = {"side_inputs": self.call.side_inputs or None, "arguments": list(self.call.arguments) or None}
        return {"name": self.name, "parallel_run_config": self.config, **self.call._asdict(), **optional}


def step_name(text: str) -> str:
    """Return a valid step name.

    >>> step_name("batch scoring/1"), step_name("_x")
    ('batch scoring_1', 'x')
    """
    return re.sub(r"[^A-Za-z0-9 _.-]", "_", text).lstrip(" _.-")[:100] or "step"
