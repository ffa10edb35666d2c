"""The inputs and outputs of a parallel job: the data that is split, side inputs, and one folder for all outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.mltable import FILE_NAME, table_at
from prefect_parallel_run.azureml.references import (
    EXPRESSION,
    Data,
    Input,
    Literal,
    Migration,
    Missing,
    References,
    expression,
    is_unresolved,
)
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.storage.paths import absolute_location, absolute_path


def split_input(section: Section, inputs: Mapping[str, Input]) -> str:
    """Return the name of the input that is split into mini-batches."""
    inside = expression(section.get("input_data"))
    name = inside.removeprefix("inputs.") if inside is not None else ""
    if not isinstance(inputs.get(name), Data):
        raise section.error("input_data", f"${{{{inputs.NAME}}}} with the name of a data input: {sorted(inputs)}")
    return name


def split_dataset(name: str, value: Input, partition_keys: Collection[str], migration: Migration) -> Dataset:
    """Return the dataset that is split into mini-batches; one with an unresolved location has only a name."""
    if not isinstance(value, Data):
        raise TypeError(f"{name} is not a data input")  # split_input prevents this
    field = f"inputs.{name}"
    location = migration.resolve(value.path, value.folder, f"{field}.path")
    _report_mode(field, value, migration)
    as_files = value.type != "mltable" or value.mode in ("eval_mount", "eval_download")
    if location is None:
        dataset = _unresolved_dataset(field, value, migration, as_files=as_files)
    elif value.type == "mltable":
        dataset, differences = table_at(location, f"{field}.path", migration.references, partition_keys, as_files=as_files)
        migration.taken(f"{field}.type", value.type, f"{type(dataset).__name__} of {location}")
        migration.add(differences, f"{field} {FILE_NAME}: ")
    else:
        dataset = FileDataset(paths=[location])
        migration.taken(f"{field}.type", value.type, f"FileDataset of {location}")
    return dataset.as_named_input(_name(name))


def _unresolved_dataset(field: str, value: Data, findings: MigrationFindings, *, as_files: bool) -> Dataset:
    """Return a dataset of the right kind with the reference as its path."""
    if as_files:
        findings.taken(f"{field}.type", value.type, "FileDataset, once its location is known")
        return FileDataset(paths=[value.path])
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    why = f"once its location is known, a file {FILE_NAME} or the extension of its files determines the format"
    findings.changed(f"{field}.type", value.type, "TabularDataset", why)
    return TabularDataset(paths=[value.path], format="parquet")


def _report_mode(field: str, value: Data, findings: MigrationFindings) -> None:
    if value.mode is not None:
        findings.left_out(f"{field}.mode", value.mode, "files are read in place; objects in a store are fetched in advance")


def side_inputs(split: str, inputs: Mapping[str, Input], migration: Migration) -> dict[str, str]:
    """Return the paths of the other data inputs; literals go into the arguments."""
    paths = {}
    for name, value in inputs.items():
        if isinstance(value, Data) and name != split:
            location = migration.resolve(value.path, value.folder, f"inputs.{name}.path")
            _report_mode(f"inputs.{name}", value, migration)
            paths[_name(name)] = value.path if location is None else location
            if location is not None:
                migration.taken(f"inputs.{name}", value.path, f"side input {location}")
        elif isinstance(value, Literal):
            migration.taken(f"inputs.{name}", value.text, "a string in the arguments")
        elif isinstance(value, Missing):
            migration.open_value(f"inputs.{name}", value.reference)
    return paths


def _name(name: str) -> str:
    """Return an input's name, which Azure restricts to the same characters."""
    if not name.isidentifier():
        raise ValueError(f"inputs: expected names of letters, digits and '_' that do not start with a digit, got {name!r}")
    return name


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


def job_outputs(job: Section, pipeline: Section | None, base: Path, migration: Migration) -> Outputs:
    """Return the outputs of a job, whose inputs and outputs are resolved; an output without a path of its own is below *base*.

    Raises:
        ValueError: append_row_to does not name an output.
    """
    section = job.section("outputs")
    declared = {name: _Output.of(section, name, pipeline) for name in section}
    prefix = "" if pipeline is None else f"parent.jobs.{base.name}."
    references = {name: f"${{{{{prefix}outputs.{name}}}}}" for name in declared}
    locations = {
        name: _location(output, [references[name], f"${{{{outputs.{name}}}}}"], base, migration.references)
        for name, output in declared.items()
    }
    task = job.section("task")
    appended, suffix = _appended(task, declared)
    files = {name for name, output in declared.items() if output.type == "uri_file"}
    result = Outputs(root=str(base), appends=task.get("append_row_to") is not None, files=files)
    if appended is not None:
        _append_to(result, appended, suffix, locations[appended])
    elif len(locations) == 1:
        ((name, location),) = locations.items()
        result.root = location or result.root
        result.places[name] = "{output}"
    for name, output in declared.items():
        result.places.setdefault(name, locations[name] or f"{{output}}/{name}")
        _report(name, output, result.actual(name), references[name], migration)
    return result


class _Output(NamedTuple):
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


def _location(output: _Output, names: list[str], base: Path, references: References) -> str | None:
    """Return the location of an output from the file or the user; None if only a workspace can resolve it."""
    path = output.path
    for reference in [*names, *([] if path is None else [path])]:
        known = references.known(reference)
        if known is not None:
            return absolute_location(known)
    if path is None:
        return None
    if not is_unresolved(path):
        return path if is_remote(path) else absolute_path(output.folder / path)
    file_name = path.rpartition("/")[2]
    is_file = output.type == "uri_file" and "$" not in file_name and "." in file_name
    return f"{base}/{file_name}" if is_file else None


def _report(name: str, output: _Output, actual: str, reference: str, findings: MigrationFindings) -> None:
    if output.path is not None and not is_unresolved(output.path):
        findings.taken(f"outputs.{name}", output.path, actual)
    else:
        findings.changed(f"outputs.{name}", output.path, actual, "it has no location of its own here; another one", reference)
