"""Maps the outputs of a parallel job to one output folder, with the result file and folders below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.azureml.expressions import EXPRESSION, expression
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.references import References, is_unresolved
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.storage.paths import absolute_location, absolute_path


@dataclass(slots=True)
class Outputs:
    """The outputs of a job in terms of a step."""

    root: str  #: the step's output
    append_row_file_name: str | None = None  #: None: the default name
    appends: bool = False  #: rows are written to a file
    places: dict[str, str] = field(default_factory=dict)  #: by output: the path for the script, with ``{output}`` in it
    files: set[str] = field(default_factory=set)  #: outputs that are files

    def folders(self) -> tuple[str, ...]:
        """Return the local folders that the script expects to exist."""
        folders = (location.replace("{output}", self.root) for name, location in self.places.items() if name not in self.files)
        return tuple(location for location in folders if location != self.root and not is_remote(location))

    def actual(self, name: str) -> str:
        """Return the path or URL of an output."""
        return self.places[name].replace("{output}", self.root)


def job_outputs(job: Section, pipeline: Section | None, base: Path, places: References, findings: MigrationFindings) -> Outputs:
    """Return the outputs of a job.

    Args:
        job: The job, with its inputs and outputs.
        pipeline: The job's pipeline, if any.
        base: Folder for outputs without a path of their own, for which Azure generates one.
        places: Locations of references.
        findings: Receives the differences.

    Raises:
        ValueError: append_row_to does not name an output.
    """
    declared = {name: _Output.of(job.section("outputs"), name, pipeline) for name in job.section("outputs")}
    references = {name: _reference(name, base.name, is_in_pipeline=pipeline is not None) for name in declared}
    locations = {
        name: _location(output, [references[name], f"${{{{outputs.{name}}}}}"], places, base)
        for name, output in declared.items()
    }
    task = job.section("task")
    appended, suffix = _appended(task, declared)
    result = Outputs(root=str(base), appends=task.get("append_row_to") is not None)
    result.files = {name for name, output in declared.items() if output.type == "uri_file"}
    if appended is not None:
        _append_to(result, appended, suffix, locations[appended])
    elif len(locations) == 1:
        ((name, location),) = locations.items()
        result.root = location or result.root
        result.places[name] = "{output}"
    for name, location in locations.items():
        if name not in result.places:
            result.places[name] = location or f"{{output}}/{name}"
    for name, output in declared.items():
        _report(result, name, output, references[name], findings)
    return result


class _Output(NamedTuple):
    """An output as declared by a job or its pipeline."""

    type: str
    path: str | None
    folder: Path  #: base of a relative path

    @classmethod
    def of(cls, declared: Section, name: str, pipeline: Section | None) -> _Output:
        inside = expression(declared[name])
        if pipeline is not None and inside is not None and inside.startswith("parent.outputs."):
            outer, key = pipeline.section("outputs"), inside.removeprefix("parent.outputs.")
            if key in outer:
                return cls.of(outer, key, None)
        if not isinstance(declared[name], Section):
            return cls("uri_folder", None, declared.file.absolute().parent)
        spec = declared.section(name)
        path = spec.get("path")
        return cls(str(spec.get("type", "uri_folder")), None if path is None else str(path), spec.file.absolute().parent)


def _reference(name: str, job: str, *, is_in_pipeline: bool) -> str:
    return f"${{{{parent.jobs.{job}.outputs.{name}}}}}" if is_in_pipeline else _inside(name)


def _inside(name: str) -> str:
    return f"${{{{outputs.{name}}}}}"


def _appended(task: Section, declared: Mapping[str, _Output]) -> tuple[str | None, str]:
    """Return the output that rows are appended to, and the path after it."""
    text = task.get("append_row_to")
    if text is None:
        return None, ""
    match = EXPRESSION.search(str(text))
    name = match[1].removeprefix("outputs.") if match is not None else ""
    if match is None or match.start() or name not in declared:
        raise task.error("append_row_to", f"${{{{outputs.NAME}}}} with one of {sorted(declared)}")
    return name, str(text)[match.end() :].strip("/")


def _append_to(result: Outputs, name: str, suffix: str, location: str | None) -> None:
    if name in result.files and not suffix:
        if location is not None:
            root, _, result.append_row_file_name = location.rpartition("/")
            result.root = root or "/"
        result.places[name] = "{output}/" + (result.append_row_file_name or "parallel_run_step.txt")
    else:
        result.files.discard(name)
        result.root = location or result.root
        result.append_row_file_name = suffix or None
        result.places[name] = "{output}"


def _location(output: _Output, names: list[str], places: References, base: Path) -> str | None:
    """Return the location of an output from the file or the user; None if only a workspace can resolve it."""
    path = output.path
    for reference in [*names, *([] if path is None else [path])]:
        known = places.known(reference)
        if known is not None:
            return absolute_location(known)
    if path is None:
        return None
    if not is_unresolved(path):
        return path if is_remote(path) else absolute_path(output.folder / path)
    file_name = path.rpartition("/")[2]
    is_file = output.type == "uri_file" and "$" not in file_name and "." in file_name
    return f"{base}/{file_name}" if is_file else None


def _report(result: Outputs, name: str, output: _Output, reference: str, findings: MigrationFindings) -> None:
    actual = result.actual(name)
    if output.path is not None and not is_unresolved(output.path):
        findings.taken(f"outputs.{name}", output.path, actual)
    else:
        findings.changed(f"outputs.{name}", output.path, actual, "it has no location of its own here; another one", reference)
