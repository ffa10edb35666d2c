"""Loads parallel jobs (version 2): alone, as a step of a pipeline job, or as a component."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run._units import parse_size
from prefect_parallel_run.azureml.findings import Difference, ImportedStep, MigrationFindings, Outcome, StepCall, step_name
from prefect_parallel_run.azureml.job_data import job_outputs, side_inputs, split_dataset, split_input
from prefect_parallel_run.azureml.job_fields import job_fields
from prefect_parallel_run.azureml.known_fields import (
    PIPELINE,
    SETTINGS,
    is_parallel,
    known_fields,
    refuse,
    unknown_in_component,
    unknown_in_job,
    unknown_in_pipeline,
)
from prefect_parallel_run.azureml.references import (
    DATA_TYPES,
    Data,
    Input,
    Migration,
    References,
    Values,
    bound_inputs,
    expression,
)
from prefect_parallel_run.azureml.settings import SETTINGS_FILE, source_settings
from prefect_parallel_run.config.yaml_reader import Section, read_document
from prefect_parallel_run.storage.paths import absolute_location

_WITH_UNIT = re.compile(r"[0-9]+[KMG]B", re.IGNORECASE)


class Job(NamedTuple):
    """A parallel job, with its pipeline, if any."""

    name: str
    section: Section
    pipeline: Section | None


def load_jobs(document: Section, references: References) -> tuple[list[ImportedStep], list[Difference]]:
    """Return every parallel job in a file as a step, and the differences of the rest of the file.

    Raises:
        ValueError: The file lacks a parallel job, or one is not supported; the error names file, line and field.
    """
    findings = MigrationFindings()
    jobs = list(_jobs(document, references, findings))
    if not jobs:
        raise ValueError(f"{document.file}: expected a job of type parallel, found none")
    steps: dict[str, ImportedStep] = {}
    for job in _ordered(jobs):
        steps[job.name] = _step(document.file, job, references, steps)
    return list(steps.values()), findings.differences


def _jobs(document: Section, references: References, findings: MigrationFindings) -> Iterator[Job]:
    if document.get("type") != "pipeline" and "jobs" not in document:
        if document.get("type") not in (None, "parallel") or "task" not in document:
            raise ValueError(f"{document.file}, line 1: not a parallel job: expected `type: parallel` with a `task`")
        is_job = "paralleljob" in str(document.get("$schema")).lower()  # Azure treats any other file as a component
        refuse(unknown_in_job(document) if is_job else unknown_in_component(document))
        yield Job(step_name(str(document.get("name") or document.file.stem)), document, None)
        return
    refuse(unknown_in_pipeline(document))
    findings.left_out_of(document, PIPELINE)
    findings.left_out_of(document.section("settings"), SETTINGS, "settings.")
    jobs = document.section("jobs")
    for name in jobs:
        job = _with_component(jobs.section(name), name, references)
        if is_parallel(job):
            yield Job(step_name(name), job, document)
        else:
            findings.left_out(f"jobs.{name}", f"of type {job.get('type')}", "convert it to a separate task in the flow")


def _ordered(jobs: list[Job]) -> Iterator[Job]:
    """Yield jobs after those whose outputs they read, and otherwise in the order of the file."""
    waiting = list(jobs)
    while waiting:
        names = {job.name for job in waiting}
        ready = next((job for job in waiting if not (_needs(job) & (names - {job.name}))), None)
        if ready is None:
            raise ValueError(f"{waiting[0].section.file}: the jobs {', '.join(sorted(names))} depend on each other")
        waiting.remove(ready)
        yield ready


def _needs(job: Job) -> set[str]:
    values = (value.get("path") if isinstance(value, Section) else value for value in job.section.section("inputs").values())
    parts = ((expression(value) or "").split(".") for value in values)
    return {step_name(part[2]) for part in parts if part[:2] == ["parent", "jobs"] and len(part) == 5}


def _with_component(job: Section, name: str, references: References) -> Section:
    """Return a job merged with its component, if that is a file; for others, only the type matters."""
    reference = job.get("component")
    if not isinstance(reference, str) or job.get("type") not in (None, "parallel"):
        return job
    known = references.known(reference)
    path = job.file.absolute().parent / reference.removeprefix("file:") if known is None else Path(absolute_location(known))
    if known is not None and not path.is_file():
        raise job.error("component", f"a file; it is mapped to {str(path)!r}, which is not a file")
    if not path.is_file():
        how = f"--map {shlex.quote(f'{reference}=FILE')}, in Python references={{{reference!r}: FILE}}"
        raise job.error("component", f"a YAML file; map a component of your workspace to a file: {how}")
    component = read_document(path)
    if is_parallel(component):  # a job may take its type from its component
        refuse([*unknown_in_job(job, f"jobs.{name}."), *unknown_in_component(component)])
    return _merge_component(component, job)


def _merge_component(component: Section, job: Section) -> Section:
    """Return a component overridden by the job that uses it; inputs and settings are merged one by one."""
    result = _merge(component, job)
    result.file = component.file
    for key, merge in _MERGED.items():
        base, override = component.get(key), job.get(key)
        if isinstance(base, Section) and isinstance(override, Section):
            result[key] = merge(base, override)
    return result


def _merge(base: Section, override: Section) -> Section:
    result = Section(override.file)
    for source in (base, override):
        for key, value in source.items():
            result.set_from(key, value, source)
    return result


def _merge_data(base: Section, override: Section) -> Section:
    """Return inputs or outputs of a component merged with those of a job; a plain value fills in a declared input."""
    result = _merge(base, Section(override.file))
    for name, value in override.items():
        declared = base.get(name)
        if not isinstance(declared, Section) or expression(value) is not None:
            result.set_from(name, value, override)
        elif isinstance(value, Section):
            result.set_from(name, _merge(declared, value), override)
        elif value is not None:
            filled_in = Section(override.file)
            filled_in["path" if declared.get("type") in DATA_TYPES else "value"] = value
            result.set_from(name, _merge(declared, filled_in), override)
    return result


_MERGED = {
    **dict.fromkeys(("inputs", "outputs"), _merge_data),
    **dict.fromkeys(("resources", "retry_settings", "environment_variables"), _merge),
}


def _step(path: Path, job: Job, references: References, before: Mapping[str, ImportedStep]) -> ImportedStep:
    migration = Migration(references=references)
    inputs = {
        name: _follow_output(value, before) for name, value in bound_inputs(job.section, job.pipeline, references).items()
    }
    split = split_input(job.section, inputs)
    section = _substitute(job, Values(inputs, job.pipeline, references), migration)
    outputs = job_outputs(section, job.pipeline, path.absolute().parent / "outputs" / job.name, migration)
    fields, arguments = job_fields(section, inputs, split, outputs, migration)
    dataset = split_dataset(split, inputs[split], fields.get("partition_keys") or (), migration)
    _report_size(section.get("mini_batch_size"), fields, dataset.kind, migration)
    paths = side_inputs(split, inputs, migration)
    allow_reuse = _allow_reuse(section, job.pipeline, migration)
    step = ImportedStep(
        file=path,
        name=job.name,
        fields=fields,
        call=StepCall(dataset, outputs.root, paths, arguments, allow_reuse),
        places={name: outputs.actual(name) for name in outputs.places},
        folders=outputs.folders(),
    )
    if not any(difference.field == "task.code" and difference.outcome is Outcome.OPEN for difference in migration.differences):
        plain = replace(step, fields={key: value for key, value in fields.items() if key != "environment_variables"})
        migration.add(source_settings(plain.config).differences, f"{SETTINGS_FILE} ")
    return replace(step, differences=tuple(migration.differences))


def _allow_reuse(section: Section, pipeline: Section | None, findings: MigrationFindings) -> bool:
    force = pipeline is not None and pipeline.section("settings").get("force_rerun") is True
    allow_reuse = not force and section.get("is_deterministic") is not False
    if "is_deterministic" in section or force:
        findings.taken("settings.force_rerun" if force else "is_deterministic", None, f"allow_reuse={allow_reuse}")
    return allow_reuse


def _substitute(job: Job, values: Values, findings: MigrationFindings) -> Section:
    """Return a job's fields with literals filled in; a missing value becomes a required decision."""
    known = known_fields(job.section, findings)
    section = values.substitute(known, ("inputs", "outputs", "input_data", "task"))
    section.set_from("task", values.substitute(known.section("task"), ("program_arguments", "append_row_to")), known)
    for inside, reference in values.missing.items():
        if inside.startswith("parent."):  # the job's own are reported with its inputs
            findings.open_value(inside, reference)
    task = section.section("task")
    if task.get("type", "run_function") not in ("run_function", "function"):
        raise task.error("type", "run_function")
    return section


def _report_size(size_given: Any, fields: Mapping[str, Any], kind: str, findings: MigrationFindings) -> None:
    """Record what the size of mini-batches means for inputs of this kind."""
    size = fields.get("mini_batch_size")
    if fields.get("partition_keys") is not None:
        return
    if size is None and kind == "file":
        findings.changed("mini_batch_size", None, "10 files", "Azure's reference says 1 file, its SDK 10")
    elif kind == "file" and _WITH_UNIT.fullmatch(str(size)):
        why = "the size counts files here, and a unit only multiplies it, as in Azure's tools: write the number of files"
        findings.changed("mini_batch_size", size, f"{parse_size(str(size))} files", why)
    elif size_given is not None:
        findings.taken("mini_batch_size", size_given, f"mini_batch_size={size!r}")


def _follow_output(value: Input, before: Mapping[str, ImportedStep]) -> Input:
    """Return an input; the output of an earlier step in the same file becomes that step's location."""
    inside = expression(value.path) if isinstance(value, Data) else None
    parts = inside.split(".") if inside is not None else []
    if isinstance(value, Data) and parts[:2] == ["parent", "jobs"] and len(parts) == 5 and step_name(parts[2]) in before:
        step = before[step_name(parts[2])]
        return value._replace(path=step.places.get(parts[4], str(step.call.output)))
    return value
