"""Where a parallel job writes: its several outputs as one output folder, with what it appends and folders below."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_parallel_run.azure.differences import Findings
from prefect_parallel_run.azure.documents import Section
from prefect_parallel_run.azure.expressions import EXPRESSION, expression
from prefect_parallel_run.azure.references import References, needs_a_place
from prefect_parallel_run.child.sources import is_remote
from prefect_parallel_run.datasets.base import absolute


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


def job_outputs(job: Section, pipeline: Section | None, base: Path, references: References, findings: Findings) -> Outputs:
    """Return where a job writes.

    Args:
        job: With its inputs and outputs.
        pipeline: That it is a part of.
        base: Folder for outputs that have no place of their own; Azure makes one up for them.
        references: Places of what a workspace knows.
        findings: Note what became of each output.

    Raises:
        ValueError: append_row_to names no output.
    """
    declared = job.section("outputs")
    given = {name: _given(declared, name, pipeline, references, base) for name in declared}
    task = job.section("task")
    appended, suffix = _appended(task, declared)
    result = Outputs(root=str(base), appends=task.get("append_row_to") is not None)
    result.files = {name for name in declared if _type(declared, name) == "uri_file"}
    if appended is not None:
        _append_to(result, appended, suffix, given[appended])
    elif len(given) == 1:
        ((name, place),) = given.items()
        result.root = place or result.root
        result.places[name] = "{output}"
    for name, place in given.items():
        if name not in result.places:
            result.places[name] = place or f"{{output}}/{name}"
    for name in declared:
        _tell(result, name, declared[name], findings)
    return result


def _appended(task: Section, declared: Section) -> tuple[str | None, str]:
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


def _given(declared: Section, name: str, pipeline: Section | None, references: References, base: Path) -> str | None:
    """Return the place that the file, or a person, gives an output; one that is known in a workspace only is none."""
    spec = declared[name]
    inside = expression(spec)
    if inside is not None and inside.startswith("parent.outputs.") and pipeline is not None:
        outer = pipeline.section("outputs")
        key = inside.removeprefix("parent.outputs.")
        return _given(outer, key, None, references, base) if key in outer else None
    path = str(spec["path"]) if isinstance(spec, Section) and spec.get("path") is not None else None
    known = references.known(f"${{{{outputs.{name}}}}}") or (references.known(path) if path is not None else None)
    if known is not None or path is None:
        return None if known is None else absolute(known)
    if not needs_a_place(path):
        return os.path.normpath(spec.file.absolute().parent / path) if not is_remote(path) else path
    file_name = path.rpartition("/")[2]
    is_file = _type(declared, name) == "uri_file" and "$" not in file_name and "." in file_name
    return f"{base}/{file_name}" if is_file else None


def _type(declared: Section, name: str) -> str:
    spec = declared[name]
    return str(spec.get("type", "uri_folder")) if isinstance(spec, Section) else "uri_folder"


def _tell(result: Outputs, name: str, spec: Any, findings: Findings) -> None:
    path = spec.get("path") if isinstance(spec, Section) else None
    actual = result.actual(name)
    if path is not None and not needs_a_place(str(path)):
        findings.taken(f"outputs.{name}", path, actual)
    else:
        why = f"another place: --map '${{{{outputs.{name}}}}}=PATH'"
        findings.changed(f"outputs.{name}", path, actual, why)
