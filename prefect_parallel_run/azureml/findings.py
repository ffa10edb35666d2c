"""The fields of Azure's files, which of them exist and what becomes of each here, and the step that results. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.config.base import construct, similar
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.yaml_file import resolve_variables
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.datasets.base import Dataset

_METADATA = "it is metadata of Azure"
_TAGS = "ParallelRunStep(…, tags=[…]) gives Prefect's task run tags"
_NO_CONTAINERS = "containers are not supported: the script runs in a process of the node"
_NO_QUEUES = "Azure's containers and queues do not apply here"
_MACHINES = "the compute target determines the machines"
_TARGET = "the step's compute_target determines where it runs"
_CATCH = "a failed step raises in the flow: catch the exception to continue"


def _converted(*names: str) -> dict[str, str]:
    """Return fields that the other modules convert."""
    return dict.fromkeys(names, "")


#: The known fields of each section, with the reason why a field has no equivalent here; empty for a field that has one.
_COMMON = {
    **_converted("$schema", "type", "name", "description", "inputs", "outputs"),
    "display_name": "the step's name is displayed instead",
    "experiment_name": "Prefect has flows instead of experiments",
    "tags": _TAGS,
    "properties": _TAGS,
    "identity": "the script runs as the user who runs the flow",
    "version": "files are not versioned here",
    "services": "a running step has no services; see Prefect's page and the report",
    **dict.fromkeys(
        ("id", "creation_context", "intellectual_property", "additional_includes", "status", "log_files"), _METADATA
    ),
}
PIPELINE = {
    **_COMMON,
    **_converted("jobs", "settings"),
    "compute": _TARGET,
    "schedule": "a deployment of the flow in Prefect has schedules",
    "is_deterministic": "it is read from each job of the pipeline",
    "component": _METADATA,
}
PARALLEL = {
    **_COMMON,
    **_converted("compute", "component", "is_deterministic", "task", "input_data", "mini_batch_size", "partition_keys"),
    **_converted("mini_batch_error_threshold", "error_threshold", "retry_settings", "resources", "logging_level"),
    **_converted("max_concurrency_per_instance", "environment_variables"),
    "limits": "Prefect's timeout_seconds of the flow does this",
    "queue_settings": "Prefect's work pools and queues do this",
}
SETTINGS = {
    **_converted("force_rerun"),
    "default_compute": _TARGET,
    "continue_on_step_failure": _CATCH,
    "continue_run_on_failed_optional_input": _CATCH,
    "default_datastore": "the step's output determines where outputs are",
    "on_init": "call it first in the flow",
    "on_finalize": "a state hook of Prefect's does this: @flow(on_completion=[…], on_failure=[…])",
}
TASK = {
    **_converted("type", "code", "entry_script", "environment", "program_arguments", "append_row_to"),
    **dict.fromkeys(("model", "args"), "only scripts can be run here"),
}
RESOURCES = {
    **_converted("instance_count"),
    "properties": _NO_QUEUES,
    "shm_size": _NO_CONTAINERS,
    "docker_args": _NO_CONTAINERS,
    **dict.fromkeys(("instance_type", "max_instance_count", "locations"), _MACHINES),
}
ENVIRONMENT = {
    **_converted("$schema", "name", "version", "conda_file"),
    "image": _NO_CONTAINERS,
    "build": _NO_CONTAINERS,
    "inference_config": "scripts do not serve requests here",
    "os_type": "nodes run Linux",
    **dict.fromkeys(
        ("id", "description", "tags", "properties", "creation_context", "datastore", "path"), "does not concern packages"
    ),
}
_RETRY = {"timeout", "max_retries"}
_DATA = {"type", "path", "mode", "path_on_compute", "description", "intellectual_property"}
_INPUT = {*_DATA, "datastore", "value", "default", "optional", "enum", "min", "max"}
_OUTPUT = {*_DATA, "name", "version", "early_available"}
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


def is_parallel(job: Section) -> bool:
    """True for a parallel job or component, by its type or because it has a task."""
    return job.get("type", "parallel" if "task" in job else None) == "parallel"


def known_fields(job: Section, findings: MigrationFindings) -> Section:
    """Return *job* without the unknown fields that Azure ignores, which are recorded; the others are refused before."""
    result = _known_fields(job, PARALLEL, "", findings)
    for key, known in (("task", TASK), ("retry_settings", _RETRY), ("resources", RESOURCES)):
        if job.get(key) is not None:
            result[key] = _known_fields(job.section(key), known, f"{key}.", findings)
    return result


def _known_fields(section: Section, known: Collection[str], prefix: str, findings: MigrationFindings) -> Section:
    kept = Section(section.file)
    for key, value in section.items():
        if key in known:
            kept.set_from(key, value, section)
        else:
            findings.left_out(f"{prefix}{key}", value, f"unknown field, which Azure ignores too{similar(key, known)}")
    return kept


def refuse(unknown_fields: Iterable[str]) -> None:
    """Raise ValueError with a line for each unknown field, if there are any."""
    lines = list(unknown_fields)
    if lines:
        raise ValueError("\n".join(lines))


def unknown(section: Section, known: Collection[str], prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field of *section*, whose path is *prefix*: file, line and the most similar name."""
    for key in section:
        if key not in known:
            yield f"{section.where(key)}: unknown field {f'{prefix}{key}'!r}{similar(key, known)}"


def unknown_in_pipeline(pipeline: Section) -> Iterator[str]:
    """Yield a line for each unknown field of a pipeline job and its parallel jobs; other jobs are not checked."""
    yield from unknown(pipeline, PIPELINE)
    yield from unknown(pipeline.section("settings"), SETTINGS, "settings.")
    yield from _unknown_in_data(pipeline)
    jobs = pipeline.section("jobs")
    for name in jobs:
        if is_parallel(jobs.section(name)):
            yield from unknown_in_job(jobs.section(name), f"jobs.{name}.")


def unknown_in_job(job: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field of a parallel job that Azure refuses: at the top level, and in its resources."""
    yield from unknown(job, PARALLEL, prefix)
    yield from unknown(job.section("resources"), RESOURCES, f"{prefix}resources.")
    yield from unknown_in_component(job, prefix)


def unknown_in_component(component: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field that Azure refuses in a component as well: in its inputs, outputs and environment."""
    task = component.section("task")
    if isinstance(task.get("environment"), Section):
        yield from unknown(task["environment"], ENVIRONMENT, f"{prefix}task.environment.")
    yield from _unknown_in_data(component, prefix)


def _unknown_in_data(owner: Section, prefix: str = "") -> Iterator[str]:
    for kind, known in (("inputs", _INPUT), ("outputs", _OUTPUT)):
        for name, entry in owner.section(kind).items():
            if isinstance(entry, Section):
                yield from unknown(entry, known, f"{prefix}{kind}.{name}.")


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
