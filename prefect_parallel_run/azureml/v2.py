"""Parallel jobs (version 2): alone, as a step of a pipeline job, or as a component."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.azureml.documents import Section, read_document
from prefect_parallel_run.azureml.expressions import Data, Input, Values, bound_inputs, expression, merged
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
from prefect_parallel_run.datasets.base import absolute
from prefect_parallel_run.units import parse_size

_WITH_UNIT = re.compile(r"[0-9]+[KMG]B", re.IGNORECASE)
_READ = {"$schema", "type", "name", "jobs", "inputs", "outputs", "settings", "description"}


class Job(NamedTuple):
    """A parallel job, with the pipeline that it is a part of."""

    name: str
    section: Section
    pipeline: Section | None
    prefix: str  #: of its fields in the file


class Jobs(NamedTuple):
    """The steps of a file, and what became of the rest of it."""

    steps: list[ImportedStep]
    differences: list[Difference]


def load_jobs(path: Path, references: References, document: Section | None = None) -> Jobs:
    """Return every parallel job in *path* as a step; relative paths count from the file they stand in.

    Raises:
        ValueError: There is none, or one says what cannot be said here; the error names file, line and field.
    """
    document = document or read_document(path)
    findings = MigrationFindings()
    jobs = list(_jobs(document, references, findings))
    if not jobs:
        raise ValueError(f"{path}: has no job of type parallel")
    steps: list[ImportedStep] = []
    for job in _ordered(jobs):
        steps.append(_step(path, job, references, {step.name: step for step in steps}))
    return Jobs(steps, findings.found)


def _jobs(document: Section, references: References, findings: MigrationFindings) -> Iterator[Job]:
    if document.get("type") != "pipeline" and "jobs" not in document:
        if document.get("type") not in (None, "parallel") or "task" not in document:
            raise ValueError(f"{document.file}, line 1: is no parallel job: it has no type parallel with a task")
        is_job = "paralleljob" in str(document.get("$schema")).lower()  # Azure has a file on its own for a component
        refuse(unknown_in_job(document) if is_job else unknown_in_component(document))
        yield Job(step_name(str(document.get("name") or document.file.stem)), document, None, "")
        return
    refuse(unknown_in_pipeline(document))
    jobs = document.section("jobs")
    for key in sorted(document.keys() - _READ):
        findings.left(key, document[key], WHY_LEFT.get(key, "it is a note of Azure's own"))
    for key, value in document.section("settings").items():
        if key != "force_rerun":
            findings.left(f"settings.{key}", value, WHY_SETTING_LEFT.get(key, "where a step runs says its compute_target"))
    for name in jobs:
        job = _with_component(jobs.section(name), name, references)
        if is_parallel(job):
            yield Job(step_name(name), job, document, f"jobs.{name}.")
        else:
            findings.left(f"jobs.{name}", f"of type {job.get('type')}", "call what it does as a task of its own in the flow")


def _ordered(jobs: list[Job]) -> Iterator[Job]:
    """Yield jobs after those whose outputs they read, else in the order of the file."""
    waiting = list(jobs)
    while waiting:
        names = {job.name for job in waiting}
        ready = next((job for job in waiting if not (_needs(job) & (names - {job.name}))), None)
        if ready is None:
            raise ValueError(f"{waiting[0].section.file}: the jobs {', '.join(sorted(names))} wait for one another")
        waiting.remove(ready)
        yield ready


def _needs(job: Job) -> set[str]:
    values = (value.get("path") if isinstance(value, Section) else value for value in job.section.section("inputs").values())
    parts = ((expression(value) or "").split(".") for value in values)
    return {step_name(part[2]) for part in parts if part[:2] == ["parent", "jobs"] and len(part) == 5}


def _with_component(job: Section, name: str, references: References) -> Section:
    """Return a job with its component, where that is a file; others are looked at by their type only."""
    given = job.get("component")
    if not isinstance(given, str) or job.get("type") not in (None, "parallel"):
        return job
    known = references.known(given)
    path = job.file.absolute().parent / given.removeprefix("file:") if known is None else Path(absolute(known))
    if known is not None and not path.is_file():
        raise job.wrong("component", f"a file; you gave it {str(path)!r}, which is none")
    if not path.is_file():
        words = "a YAML file; one in your workspace has to be given a file: --map "
        raise job.wrong("component", f"{words}{shlex.quote(f'{given}=FILE')}, in Python references={{{given!r}: FILE}}")
    component = read_document(path)
    if is_parallel(component):
        refuse([*unknown_in_job(job, f"jobs.{name}."), *unknown_in_component(component)])  # a job may leave its type to that
    return merged(component, job)


def _step(path: Path, job: Job, references: References, before: Mapping[str, ImportedStep]) -> ImportedStep:
    findings = MigrationFindings()
    inputs = {name: _through(value, before) for name, value in bound_inputs(job.section, job.pipeline, references).items()}
    split = split_input(job.section, inputs)
    section = _filled(job, Values(inputs, job.pipeline, references), findings)
    task = section.section("task")
    if task.get("type", "run_function") not in ("run_function", "function"):
        raise task.wrong("type", "run_function")
    base = path.absolute().parent / "outputs" / job.name
    outputs = job_outputs(section, job.pipeline, base, references, findings)
    fields, arguments = job_fields(section, inputs, split, outputs, references, findings)
    keys = fields.get("partition_keys") or ()
    dataset = split_dataset(split, inputs[split], keys, references, findings)
    _tell_size(section.get("mini_batch_size"), fields, dataset.kind, findings)
    sides = side_inputs(split, inputs, references, findings)
    force = job.pipeline is not None and job.pipeline.section("settings").get("force_rerun") is True
    allow_reuse = not force and section.get("is_deterministic") is not False
    if "is_deterministic" in section or force:
        findings.taken("settings.force_rerun" if force else "is_deterministic", None, f"allow_reuse={allow_reuse}")
    return _checked(
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
            differences=tuple(findings.found),
        )
    )


def _filled(job: Job, values: Values, findings: MigrationFindings) -> Section:
    """Return a job's fields with literals filled in; what has none is to be decided."""
    known, ignored = split_ignored(job.section)
    for one in ignored:
        findings.left(one.name, one.value, f"unknown field, which Azure ignores too{one.hint}")
    section = values.filled(known, ("inputs", "outputs", "input_data", "task"))
    section.take("task", values.filled(known.section("task"), ("program_arguments", "append_row_to")), known)
    for inside, reference in values.missing.items():
        if inside.startswith("parent."):  # the job's own are told with its inputs
            findings.open_value(inside, reference)
    return section


def _tell_size(given: Any, fields: Mapping[str, Any], kind: str, findings: MigrationFindings) -> None:
    """Note what the size of mini-batches means for inputs of this kind."""
    size = fields.get("mini_batch_size")
    if fields.get("partition_keys") is not None:
        return
    if size is None and kind == "file":
        findings.changed("mini_batch_size", None, "10 files", "Azure's reference says 1 file, its SDK 10")
    elif kind == "file" and _WITH_UNIT.fullmatch(str(size)):
        why = "files are counted here, and a unit only multiplies, as in Azure's tools: write the number of files"
        findings.changed("mini_batch_size", size, f"{parse_size(str(size))} files", why)
    elif given is not None:
        findings.taken("mini_batch_size", given, f"mini_batch_size={size!r}")


def _checked(step: ImportedStep) -> ImportedStep:
    """Return the step with what the settings file beside its script says noted; raises ValueError for a wrong field."""
    if any(one.field == "task.code" for one in step.undecided):
        return step
    fields = {key: value for key, value in step.fields.items() if key != "environment_variables"}
    plain = ImportedStep(file=step.file, name=step.name, fields=fields)
    findings = MigrationFindings(list(step.differences))
    findings.add(source_settings(plain.config).differences, f"{SETTINGS_FILE} ")
    return replace(step, differences=tuple(findings.found))


def _through(value: Input, before: Mapping[str, ImportedStep]) -> Input:
    """Return an input; an output of an earlier step in the same file is where that step writes."""
    inside = expression(value.path) if isinstance(value, Data) else None
    parts = inside.split(".") if inside is not None else []
    if isinstance(value, Data) and parts[:2] == ["parent", "jobs"] and len(parts) == 5 and step_name(parts[2]) in before:
        step = before[step_name(parts[2])]
        return value._replace(path=step.places.get(parts[4], str(step.output)))
    return value
