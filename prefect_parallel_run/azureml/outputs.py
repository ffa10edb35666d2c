"""Where a parallel job writes: its several outputs as one output folder, with what it appends and folders below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.azureml.documents import Section
from prefect_parallel_run.azureml.expressions import EXPRESSION, expression
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.references import References, needs_a_place
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.datasets.base import absolute
from prefect_parallel_run.paths import absolute_path


@dataclass(slots=True)
class Outputs:
    """The outputs of a job as a step has them."""

    root: str  #: the step's output
    append_row_file_name: str | None = None  #: None: the usual one
    appends: bool = False  #: rows are kept in a file
    places: dict[str, str] = field(default_factory=dict)  #: by output: what the script is told, ``{output}`` in it
    files: set[str] = field(default_factory=set)  #: outputs that are files

    def folders(self) -> tuple[str, ...]:
        """Return local folders that the script expects to be there."""
        found = (place.replace("{output}", self.root) for name, place in self.places.items() if name not in self.files)
        return tuple(place for place in found if place != self.root and not is_remote(place))

    def actual(self, name: str) -> str:
        """Return where an output lies."""
        return self.places[name].replace("{output}", self.root)


def job_outputs(job: Section, pipeline: Section | None, base: Path, places: References, findings: MigrationFindings) -> Outputs:
    """Return where a job writes.

    Args:
        job: With its inputs and outputs.
        pipeline: That it is a part of.
        base: Folder for outputs that have no place of their own; Azure makes one up for them.
        places: Of what a workspace knows.
        findings: Note what became of each output.

    Raises:
        ValueError: append_row_to names no output.
    """
    declared = {name: _Output.of(job.section("outputs"), name, pipeline) for name in job.section("outputs")}
    references = {name: _reference(name, base.name, is_in_pipeline=pipeline is not None) for name in declared}
    given = {
        name: _given(output, [references[name], f"${{{{outputs.{name}}}}}"], places, base) for name, output in declared.items()
    }
    task = job.section("task")
    appended, suffix = _appended(task, declared)
    result = Outputs(root=str(base), appends=task.get("append_row_to") is not None)
    result.files = {name for name, output in declared.items() if output.type == "uri_file"}
    if appended is not None:
        _append_to(result, appended, suffix, given[appended])
    elif len(given) == 1:
        ((name, place),) = given.items()
        result.root = place or result.root
        result.places[name] = "{output}"
    for name, place in given.items():
        if name not in result.places:
            result.places[name] = place or f"{{output}}/{name}"
    for name, output in declared.items():
        _tell(result, name, output, references[name], findings)
    return result


class _Output(NamedTuple):
    """An output as a job, or the pipeline around it, declares it."""

    type: str
    path: str | None
    folder: Path  #: that the path counts from

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
    """Return the output that rows are appended to, and what stands behind it."""
    text = task.get("append_row_to")
    if text is None:
        return None, ""
    found = EXPRESSION.search(str(text))
    name = found[1].removeprefix("outputs.") if found is not None else ""
    if found is None or found.start() or name not in declared:
        raise task.wrong("append_row_to", f"${{{{outputs.NAME}}}} with one of {sorted(declared)}")
    return name, str(text)[found.end() :].strip("/")


def _append_to(result: Outputs, name: str, suffix: str, place: str | None) -> None:
    if name in result.files and not suffix:
        if place is not None:
            root, _, result.append_row_file_name = place.rpartition("/")
            result.root = root or "/"
        result.places[name] = "{output}/" + (result.append_row_file_name or "parallel_run_step.txt")
    else:
        result.files.discard(name)
        result.root = place or result.root
        result.append_row_file_name = suffix or None
        result.places[name] = "{output}"


def _given(output: _Output, names: list[str], places: References, base: Path) -> str | None:
    """Return the place that the file, or a person, gives an output; one that is known in a workspace only is none."""
    path = output.path
    for reference in [*names, *([] if path is None else [path])]:
        known = places.known(reference)
        if known is not None:
            return absolute(known)
    if path is None:
        return None
    if not needs_a_place(path):
        return path if is_remote(path) else absolute_path(output.folder / path)
    file_name = path.rpartition("/")[2]
    is_file = output.type == "uri_file" and "$" not in file_name and "." in file_name
    return f"{base}/{file_name}" if is_file else None


def _tell(result: Outputs, name: str, output: _Output, reference: str, findings: MigrationFindings) -> None:
    actual = result.actual(name)
    if output.path is not None and not needs_a_place(output.path):
        findings.taken(f"outputs.{name}", output.path, actual)
    else:
        findings.changed(f"outputs.{name}", output.path, actual, "it has no place of its own here; another one", reference)
