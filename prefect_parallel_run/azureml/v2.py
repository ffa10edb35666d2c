"""Loads parallel jobs (version 2): alone, as a step of a pipeline job, or as a component."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run._units import parse_size
from prefect_parallel_run.azureml.expressions import Data, Input, Values, bound_inputs, expression, merge_component
from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.azureml.job_fields import WHY_LEFT, WHY_SETTING_LEFT, job_fields
from prefect_parallel_run.azureml.job_inputs import side_inputs, split_dataset, split_input
from prefect_parallel_run.azureml.outputs import job_outputs
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.azureml.schema import (
    is_parallel,
    refuse,
    split_ignored,
    unknown_in_component,
    unknown_in_job,
    unknown_in_pipeline,
)
from prefect_parallel_run.azureml.settings import FILE_NAME as SETTINGS_FILE
from prefect_parallel_run.azureml.settings import source_settings
from prefect_parallel_run.azureml.step import ImportedStep, step_name
from prefect_parallel_run.config.yaml_reader import Section, read_document
from prefect_parallel_run.storage.paths import absolute_location

_WITH_UNIT = re.compile(r"[0-9]+[KMG]B", re.IGNORECASE)
_READ = {"$schema", "type", "name", "jobs", "inputs", "outputs", "settings", "description"}


class Job(NamedTuple):
    """A parallel job, with its pipeline, if any."""

    name: str
    section: Section
    pipeline: Section | None
    prefix: str  #: path of its fields in the file


class Jobs(NamedTuple):
    """The steps of a file, and the differences of the rest of the file."""

    steps: list[ImportedStep]
    differences: list[Difference]


def load_jobs(path: Path, references: References, document: Section | None = None) -> Jobs:
    """Return every parallel job in *path* as a step; paths are relative to the file that contains them.

    Raises:
        ValueError: There is no parallel job, or one is not supported; the error names file, line and field.
    """
    document = document or read_document(path)
    findings = MigrationFindings()
    jobs = list(_jobs(document, references, findings))
    if not jobs:
        raise ValueError(f"{path}: expected a job of type parallel, found none")
    steps: list[ImportedStep] = []
    for job in _ordered(jobs):
        steps.append(_step(path, job, references, {step.name: step for step in steps}))
    return Jobs(steps, findings.differences)


def _jobs(document: Section, references: References, findings: MigrationFindings) -> Iterator[Job]:
    if document.get("type") != "pipeline" and "jobs" not in document:
        if document.get("type") not in (None, "parallel") or "task" not in document:
            raise ValueError(f"{document.file}, line 1: not a parallel job: expected `type: parallel` with a `task`")
        is_job = "paralleljob" in str(document.get("$schema")).lower()  # Azure treats any other file as a component
        refuse(unknown_in_job(document) if is_job else unknown_in_component(document))
        yield Job(step_name(str(document.get("name") or document.file.stem)), document, None, "")
        return
    refuse(unknown_in_pipeline(document))
    jobs = document.section("jobs")
    for key in sorted(document.keys() - _READ):
        findings.left_out(key, document[key], WHY_LEFT.get(key, "it is metadata of Azure"))
    for key, value in document.section("settings").items():
        if key != "force_rerun":
            findings.left_out(
                f"settings.{key}", value, WHY_SETTING_LEFT.get(key, "the step's compute_target determines where it runs")
            )
    for name in jobs:
        job = _with_component(jobs.section(name), name, references)
        if is_parallel(job):
            yield Job(step_name(name), job, document, f"jobs.{name}.")
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
        expected = "a YAML file; map a component of your workspace to a file: --map "
        raise job.error(
            "component", f"{expected}{shlex.quote(f'{reference}=FILE')}, in Python references={{{reference!r}: FILE}}"
        )
    component = read_document(path)
    if is_parallel(component):
        refuse(
            [*unknown_in_job(job, f"jobs.{name}."), *unknown_in_component(component)]
        )  # a job may take its type from its component
    return merge_component(component, job)


def _step(path: Path, job: Job, references: References, before: Mapping[str, ImportedStep]) -> ImportedStep:
    findings = MigrationFindings()
    inputs = {
        name: _follow_output(value, before) for name, value in bound_inputs(job.section, job.pipeline, references).items()
    }
    split = split_input(job.section, inputs)
    section = _substitute(job, Values(inputs, job.pipeline, references), findings)
    task = section.section("task")
    if task.get("type", "run_function") not in ("run_function", "function"):
        raise task.error("type", "run_function")
    base = path.absolute().parent / "outputs" / job.name
    outputs = job_outputs(section, job.pipeline, base, references, findings)
    fields, arguments = job_fields(section, inputs, split, outputs, references, findings)
    keys = fields.get("partition_keys") or ()
    dataset = split_dataset(split, inputs[split], keys, references, findings)
    _report_size(section.get("mini_batch_size"), fields, dataset.kind, findings)
    sides = side_inputs(split, inputs, references, findings)
    force = job.pipeline is not None and job.pipeline.section("settings").get("force_rerun") is True
    allow_reuse = not force and section.get("is_deterministic") is not False
    if "is_deterministic" in section or force:
        findings.taken("settings.force_rerun" if force else "is_deterministic", None, f"allow_reuse={allow_reuse}")
    return _with_settings(
        ImportedStep(
            file=path,
            name=job.name,
            fields=fields,
            inputs=dataset,
            output=outputs.root,
            side_inputs=sides,
            arguments=arguments,
            allow_reuse=allow_reuse,
            places={name: outputs.actual(name) for name in outputs.places},
            folders=outputs.folders(),
            differences=tuple(findings.differences),
        )
    )


def _substitute(job: Job, values: Values, findings: MigrationFindings) -> Section:
    """Return a job's fields with literals filled in; a missing value becomes a required decision."""
    known, ignored = split_ignored(job.section)
    for field in ignored:
        findings.left_out(field.name, field.value, f"unknown field, which Azure ignores too{field.hint}")
    section = values.substitute(known, ("inputs", "outputs", "input_data", "task"))
    section.set_from("task", values.substitute(known.section("task"), ("program_arguments", "append_row_to")), known)
    for inside, reference in values.missing.items():
        if inside.startswith("parent."):  # the job's own are reported with its inputs
            findings.open_value(inside, reference)
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


def _with_settings(step: ImportedStep) -> ImportedStep:
    """Return the step with the differences of its settings file; raises ValueError for an invalid field."""
    if any(difference.field == "task.code" for difference in step.undecided):
        return step
    fields = {key: value for key, value in step.fields.items() if key != "environment_variables"}
    plain = ImportedStep(file=step.file, name=step.name, fields=fields)
    findings = MigrationFindings(list(step.differences))
    findings.add(source_settings(plain.config).differences, f"{SETTINGS_FILE} ")
    return replace(step, differences=tuple(findings.differences))


def _follow_output(value: Input, before: Mapping[str, ImportedStep]) -> Input:
    """Return an input; the output of an earlier step in the same file becomes that step's location."""
    inside = expression(value.path) if isinstance(value, Data) else None
    parts = inside.split(".") if inside is not None else []
    if isinstance(value, Data) and parts[:2] == ["parent", "jobs"] and len(parts) == 5 and step_name(parts[2]) in before:
        step = before[step_name(parts[2])]
        return value._replace(path=step.places.get(parts[4], str(step.output)))
    return value
