"""The fields of Azure's files: which exist, and what becomes of each here. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

from prefect_parallel_run.config.base import similar
from prefect_parallel_run.config.yaml_reader import Section

#: Fields allowed in every job and component, whether or not they have an effect here.
_DESCRIPTION = {
    *("$schema", "type", "name", "version", "display_name", "description", "tags", "properties", "id", "creation_context"),
    *("is_deterministic", "intellectual_property", "additional_includes"),
}
_JOB = {"compute", "experiment_name", "identity", "services", "status", "log_files", "inputs", "outputs"}
PIPELINE = frozenset(_DESCRIPTION | _JOB | {"jobs", "settings", "component", "schedule"})
SETTINGS = frozenset(
    {
        *("default_datastore", "default_compute", "continue_on_step_failure", "continue_run_on_failed_optional_input"),
        *("force_rerun", "on_init", "on_finalize"),
    }
)
PARALLEL = frozenset(
    {
        *(_DESCRIPTION | _JOB),
        *("component", "task", "input_data", "mini_batch_size", "partition_keys", "mini_batch_error_threshold"),
        *("error_threshold", "retry_settings", "resources", "max_concurrency_per_instance", "logging_level"),
        *("environment_variables", "limits", "queue_settings"),
    }
)
TASK = frozenset({"type", "code", "entry_script", "environment", "program_arguments", "append_row_to", "model", "args"})
RETRY = frozenset({"timeout", "max_retries"})
RESOURCES = frozenset(
    {
        *("instance_count", "instance_type", "max_instance_count", "properties", "shm_size", "docker_args", "locations"),
    }
)
ENVIRONMENT = frozenset(
    {
        *("$schema", "name", "version", "id", "description", "tags", "properties", "creation_context", "conda_file", "image"),
        *("build", "os_type", "inference_config", "datastore", "path"),
    }
)
INPUT = frozenset(
    {
        *("type", "path", "mode", "path_on_compute", "datastore", "value", "default", "optional", "description", "enum"),
        *("min", "max", "intellectual_property"),
    }
)
OUTPUT = frozenset(
    {
        *("type", "path", "mode", "path_on_compute", "name", "version", "description", "early_available"),
        *("intellectual_property",),
    }
)
MLTABLE = frozenset(
    {
        *("$schema", "type", "paths", "transformations", "traits", "metadata", "name", "version", "description", "tags"),
        *("query_source",),
    }
)
_READER = {"include_path_column", "path_column", "partition_size"}
READERS = {
    "read_delimited": frozenset(
        {*_READER, "delimiter", "encoding", "header", "infer_column_types", "empty_as_string", "support_multi_line"}
    ),
    "read_parquet": frozenset(_READER),
    "read_json_lines": frozenset({*_READER, "encoding", "invalid_lines"}),
    "read_delta_lake": frozenset({*_READER, "timestamp_as_of", "version_as_of"}),
}
TRANSFORMATIONS = frozenset(
    {
        *READERS,
        *("filter", "skip", "take", "take_random_sample", "random_split", "select_partitions", "keep_columns", "drop_columns"),
        *("convert_column_types", "extract_columns_from_partition_format"),
    }
)


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
        self._add(name, Outcome.TAKEN, given, here, "")

    def changed(self, name: str, given: Any, here: str, why: str, reference: str = "") -> None:
        """Record a field with a different meaning here; *reference* can be mapped to change that."""
        self._add(name, Outcome.CHANGED, given, here, why, reference)

    def left_out(self, name: str, given: Any, why: str) -> None:
        """Record a field without an equivalent here."""
        self._add(name, Outcome.LEFT, given, "", why)

    def open(self, name: str, given: Any, why: str, reference: str = "") -> None:
        """Record a field that requires a decision, for example by mapping *reference*."""
        self._add(name, Outcome.OPEN, given, "", why, reference)

    def open_value(self, name: str, reference: str) -> None:
        """Record an input for a string or number that has no value; the user can map *reference* to one."""
        why = "no value in this file; provide one"
        self.differences.append(Difference(field=name, outcome=Outcome.OPEN, why=why, reference=reference, wanted="VALUE"))

    def add(self, others: Iterable[Difference], prefix: str = "") -> None:
        """Add differences found elsewhere, with *prefix* before their fields."""
        self.differences += [replace(other, field=f"{prefix}{other.field}") for other in others]

    def _add(self, name: str, outcome: Outcome, given: Any, here: str, why: str, reference: str = "") -> None:
        given = as_text(given)
        self.differences.append(Difference(field=name, outcome=outcome, given=given, here=here, why=why, reference=reference))


_MAX_CHARACTERS = 120  #: in the displayed value of a field


def as_text(value: Any) -> str:
    """Return a field's value as the file would show it, truncated.

    >>> as_text(True), as_text(None), as_text("x" * 200)[-3:]
    ('true', '', 'xx…')
    """
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


def refuse(wrong: Iterable[str]) -> None:
    """Raise ValueError with the lines in *wrong*, if there are any."""
    lines = list(wrong)
    if lines:
        raise ValueError("\n".join(lines))


def unknown(section: Section, known: Iterable[str], prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field of *section*: file, line and the most similar name.

    *prefix* is the path of the section, for the fields' names.
    """
    names = set(known)
    for key in section:
        if key not in names:
            yield f"{section.where(key)}: unknown field {f'{prefix}{key}'!r}{similar(key, names)}"


def unknown_in_job(job: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field of a parallel job that Azure refuses: at the top level, and in its resources."""
    yield from unknown(job, PARALLEL, prefix)
    yield from unknown(job.section("resources"), RESOURCES, f"{prefix}resources.")
    yield from unknown_in_component(job, prefix)


def unknown_in_component(component: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field that Azure refuses in a component as well: in its inputs, outputs and environment."""
    task = component.section("task")
    if isinstance(task.get("environment"), Section):
        yield from unknown(task.section("environment"), ENVIRONMENT, f"{prefix}task.environment.")
    yield from _unknown_in_data(component, prefix)


class Ignored(NamedTuple):
    """A field unknown to Azure's schemas, in a section where Azure ignores such fields."""

    name: str  #: with its section
    value: object
    hint: str  #: the most similar name, or empty


def split_ignored(job: Section) -> tuple[Section, list[Ignored]]:
    """Return a job without the fields that Azure ignores, and these fields; refused fields raised an error before."""
    result, ignored = _split(job, PARALLEL, "")
    for key, known in (("task", TASK), ("retry_settings", RETRY), ("resources", RESOURCES)):
        if job.get(key) is not None:
            kept, others = _split(job.section(key), known, f"{key}.")
            result[key] = kept
            ignored += others
    return result, ignored


def _split(section: Section, known: Iterable[str], prefix: str) -> tuple[Section, list[Ignored]]:
    names = set(known)
    kept, ignored = Section(section.file), []
    for key, value in section.items():
        if key in names:
            kept.set_from(key, value, section)
        else:
            ignored.append(Ignored(f"{prefix}{key}", value, similar(key, names)))
    return kept, ignored


def unknown_in_pipeline(pipeline: Section) -> Iterator[str]:
    """Yield a line for each unknown field of a pipeline job and its parallel jobs; other jobs are not checked."""
    yield from unknown(pipeline, PIPELINE)
    yield from unknown(pipeline.section("settings"), SETTINGS, "settings.")
    yield from _unknown_in_data(pipeline)
    jobs = pipeline.section("jobs")
    for name in jobs:
        if is_parallel(jobs.section(name)):
            yield from unknown_in_job(jobs.section(name), f"jobs.{name}.")


def is_parallel(job: Section) -> bool:
    """True for a parallel job or component, by its type or because it has a task."""
    return job.get("type", "parallel" if "task" in job else None) == "parallel"


def _unknown_in_data(owner: Section, prefix: str = "") -> Iterator[str]:
    for kind, known in (("inputs", INPUT), ("outputs", OUTPUT)):
        entries = owner.section(kind)
        for name, entry in entries.items():
            if isinstance(entry, Section):
                yield from unknown(entry, known, f"{prefix}{kind}.{name}.")
