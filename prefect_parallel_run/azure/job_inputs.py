"""The inputs of a parallel job: the one that is cut into mini-batches, and those that the script reads beside it."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_parallel_run.azure.differences import Findings
from prefect_parallel_run.azure.documents import Section
from prefect_parallel_run.azure.expressions import Data, Input, Literal, expression
from prefect_parallel_run.azure.mltable import FILE_NAME, table_at
from prefect_parallel_run.azure.references import References
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset


def split_input(section: Section, inputs: Mapping[str, Input]) -> str:
    """Return the name of the input that is cut into mini-batches."""
    inside = expression(section.get("input_data"))
    name = inside.removeprefix("inputs.") if inside is not None else ""
    if not isinstance(inputs.get(name), Data):
        given = section.get("input_data")
        accepted = f"${{{{inputs.NAME}}}} with the name of an input that is data: {sorted(inputs)}"
        raise ValueError(f"{section.where('input_data')}: input_data is {given!r}; accepted: {accepted}")  # noqa: TRY004  a file's value
    return name


def split_dataset(name: str, value: Input, references: References, findings: Findings) -> Dataset:
    """Return the dataset that is cut into mini-batches; one without a place is named, but stands for nothing yet."""
    if not isinstance(value, Data):
        raise TypeError(f"{name} is no data")  # split_input has made sure of it
    field = f"inputs.{name}"
    place = references.place(value.path, value.folder, f"{field}.path", findings)
    _tell_mode(field, value, findings)
    if place is None:
        kind = "table" if value.type == "mltable" else "files"
        findings.taken(f"{field}.type", value.type, f"{kind}, once its place is known")
        return FileDataset(paths=[value.path]).as_named_input(_name(name))
    if value.type == "mltable":
        as_files = value.mode in ("eval_mount", "eval_download")
        table = table_at(place, references, as_files=as_files, field=f"{field}.path")
        findings.taken(f"{field}.type", value.type, f"{type(table.dataset).__name__} of {place}")
        findings.add(table.differences, f"{field} {FILE_NAME}: ")
        return table.dataset.as_named_input(_name(name))
    findings.taken(f"{field}.type", value.type, f"FileDataset of {place}")
    return FileDataset(paths=[place]).as_named_input(_name(name))


def _tell_mode(field: str, value: Data, findings: Findings) -> None:
    if value.mode is not None:
        why = "files are read where they lie; objects in a store are fetched beforehand"
        findings.left(f"{field}.mode", value.mode, why)


def side_inputs(split: str, inputs: Mapping[str, Input], references: References, findings: Findings) -> dict[str, str]:
    """Return the paths of the other inputs that are data; literals go into the arguments."""
    found = {}
    for name, value in inputs.items():
        if isinstance(value, Data) and name != split:
            place = references.place(value.path, value.folder, f"inputs.{name}.path", findings)
            _tell_mode(f"inputs.{name}", value, findings)
            found[_name(name)] = value.path if place is None else place
            if place is not None:
                findings.taken(f"inputs.{name}", value.path, f"side input {place}")
        elif isinstance(value, Literal):
            findings.taken(f"inputs.{name}", value.text, "a text in the arguments")
    return found


def _name(name: str) -> str:
    """Return an input's name; Azure allows no other characters either."""
    if not name.isidentifier():
        raise ValueError(f"inputs: {name!r} is not an input's name; use letters, digits and '_', no digit first")
    return name
