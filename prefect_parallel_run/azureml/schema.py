"""The fields that Azure's schemas know. Others are refused where Azure refuses them, else left out. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prefect_parallel_run.azureml.documents import Section

#: What every job and component may say, whether or not it means something here.
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
    """Raise ValueError with all that is *wrong*, a line each, if anything is."""
    lines = list(wrong)
    if lines:
        raise ValueError("\n".join(lines))


def unknown(section: Section, known: Iterable[str], prefix: str = "") -> Iterator[str]:
    """Yield a line for each field of *section* that is not *known*: file, line and the nearest name.

    *prefix* stands before the fields' names, and says where they are.
    """
    names = set(known)
    for key in section:
        if key not in names:
            yield f"{section.where(key)}: unknown field {f'{prefix}{key}'!r}{meant(key, names)}"


def meant(name: str, known: Iterable[str]) -> str:
    """Return a hint at the name that was probably meant, or an empty text.

    >>> meant("mini_batch_error_treshold", PARALLEL)
    '; did you mean mini_batch_error_threshold?'
    """
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def unknown_in_job(job: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field of a parallel job that Azure refuses: at its top, and in its resources."""
    yield from unknown(job, PARALLEL, prefix)
    yield from unknown(job.section("resources"), RESOURCES, f"{prefix}resources.")
    yield from unknown_in_component(job, prefix)


def unknown_in_component(component: Section, prefix: str = "") -> Iterator[str]:
    """Yield a line for each unknown field that Azure refuses in a component too: in its inputs, outputs and environment."""
    task = component.section("task")
    if isinstance(task.get("environment"), Section):
        yield from unknown(task.section("environment"), ENVIRONMENT, f"{prefix}task.environment.")
    yield from _unknown_in_data(component, prefix)


class Ignored(NamedTuple):
    """A field that Azure's schemas do not know, where Azure ignores such fields."""

    name: str  #: with the section that it stands in
    value: object
    hint: str  #: at the name that was probably meant, or empty


def split_ignored(job: Section) -> tuple[Section, list[Ignored]]:
    """Return a job without the fields that Azure ignores, and these; what Azure refuses was refused before."""
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
            kept.take(key, value, section)
        else:
            ignored.append(Ignored(f"{prefix}{key}", value, meant(key, names)))
    return kept, ignored


def unknown_in_pipeline(pipeline: Section) -> Iterator[str]:
    """Yield a line for all that Azure's schemas do not know in a pipeline job and its parallel jobs; others are not read."""
    yield from unknown(pipeline, PIPELINE)
    yield from unknown(pipeline.section("settings"), SETTINGS, "settings.")
    yield from _unknown_in_data(pipeline)
    jobs = pipeline.section("jobs")
    for name in jobs:
        if is_parallel(jobs.section(name)):
            yield from unknown_in_job(jobs.section(name), f"jobs.{name}.")


def is_parallel(job: Section) -> bool:
    """True for what says that it is a parallel job or component, by its type or by having a task."""
    return job.get("type", "parallel" if "task" in job else None) == "parallel"


def _unknown_in_data(owner: Section, prefix: str = "") -> Iterator[str]:
    for kind, known in (("inputs", INPUT), ("outputs", OUTPUT)):
        several = owner.section(kind)
        for name, one in several.items():
            if isinstance(one, Section):
                yield from unknown(one, known, f"{prefix}{kind}.{name}.")
