"""The fields of Azure's files: which are known, why some have no equivalent here, and the check for unknown ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.config.base import similar
from prefect_parallel_run.config.yaml_reader import Section

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
