"""The inputs of a parallel job: the one that is cut into mini-batches, and those that the script reads beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prefect_parallel_run.azureml.documents import Section
from prefect_parallel_run.azureml.expressions import Data, Input, Literal, Missing, expression
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.mltable import FILE_NAME, table_at
from prefect_parallel_run.azureml.references import References
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


def split_dataset(
    name: str, value: Input, partition_keys: Collection[str], references: References, findings: MigrationFindings
) -> Dataset:
    """Return the dataset that is cut into mini-batches; one without a place is named, but stands for nothing yet."""
    if not isinstance(value, Data):
        raise TypeError(f"{name} is no data")  # split_input has made sure of it
    field = f"inputs.{name}"
    place = references.place(value.path, value.folder, f"{field}.path", findings)
    _tell_mode(field, value, findings)
    as_files = value.type != "mltable" or value.mode in ("eval_mount", "eval_download")
    if place is None:
        return _somewhere(field, name, value, findings, as_files=as_files)
    if value.type == "mltable":
        table = table_at(place, references, as_files=as_files, field=f"{field}.path", partition_keys=partition_keys)
        findings.taken(f"{field}.type", value.type, f"{type(table.dataset).__name__} of {place}")
        findings.add(table.differences, f"{field} {FILE_NAME}: ")
        return table.dataset.as_named_input(_name(name))
    findings.taken(f"{field}.type", value.type, f"FileDataset of {place}")
    return FileDataset(paths=[place]).as_named_input(_name(name))


def _somewhere(field: str, name: str, value: Data, findings: MigrationFindings, *, as_files: bool) -> Dataset:
    """Return a dataset of the right kind whose place is only a name."""
    if as_files:
        findings.taken(f"{field}.type", value.type, "FileDataset, once its place is known")
        return FileDataset(paths=[value.path]).as_named_input(_name(name))
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    why = f"once its place is known, a file {FILE_NAME} there, or the ending of its files, says how it is written"
    findings.changed(f"{field}.type", value.type, "TabularDataset", why)
    return TabularDataset(paths=[value.path], format="parquet").as_named_input(_name(name))


def _tell_mode(field: str, value: Data, findings: MigrationFindings) -> None:
    if value.mode is not None:
        why = "files are read where they lie; objects in a store are fetched beforehand"
        findings.left(f"{field}.mode", value.mode, why)


def side_inputs(split: str, inputs: Mapping[str, Input], references: References, findings: MigrationFindings) -> dict[str, str]:
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
        elif isinstance(value, Missing):
            findings.open_value(f"inputs.{name}", value.reference)
    return found


def _name(name: str) -> str:
    """Return an input's name; Azure allows no other characters either."""
    if not name.isidentifier():
        raise ValueError(f"inputs: {name!r} is not an input's name; use letters, digits and '_', no digit first")
    return name
