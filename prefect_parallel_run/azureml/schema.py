"""The fields in Azure's schemas. Unknown fields are refused if Azure refuses them, and else left out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

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
