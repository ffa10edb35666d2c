"""The inputs of a parallel job: the one that is split into mini-batches, and the side inputs of the script."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prefect_parallel_run.azureml.expressions import Data, Input, Literal, Missing, expression
from prefect_parallel_run.azureml.findings import MigrationFindings
from prefect_parallel_run.azureml.mltable import FILE_NAME, table_at
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.config.yaml_reader import Section
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset


def split_input(section: Section, inputs: Mapping[str, Input]) -> str:
    """Return the name of the input that is split into mini-batches."""
    inside = expression(section.get("input_data"))
    name = inside.removeprefix("inputs.") if inside is not None else ""
    if not isinstance(inputs.get(name), Data):
        input_data = section.get("input_data")
        expected = f"${{{{inputs.NAME}}}} with the name of a data input: {sorted(inputs)}"
        raise ValueError(f"{section.where('input_data')}: input_data is {input_data!r}; expected {expected}")
    return name


def split_dataset(
    name: str, value: Input, partition_keys: Collection[str], references: References, findings: MigrationFindings
) -> Dataset:
    """Return the dataset that is split into mini-batches; one with an unresolved location has only a name."""
    if not isinstance(value, Data):
        raise TypeError(f"{name} is not a data input")  # split_input prevents this
    field = f"inputs.{name}"
    location = references.resolve(value.path, value.folder, f"{field}.path", findings)
    _report_mode(field, value, findings)
    as_files = value.type != "mltable" or value.mode in ("eval_mount", "eval_download")
    if location is None:
        return _unresolved_dataset(field, name, value, findings, as_files=as_files)
    if value.type == "mltable":
        table = table_at(location, references, as_files=as_files, field=f"{field}.path", partition_keys=partition_keys)
        findings.taken(f"{field}.type", value.type, f"{type(table.dataset).__name__} of {location}")
        findings.add(table.differences, f"{field} {FILE_NAME}: ")
        return table.dataset.as_named_input(_name(name))
    findings.taken(f"{field}.type", value.type, f"FileDataset of {location}")
    return FileDataset(paths=[location]).as_named_input(_name(name))


def _unresolved_dataset(field: str, name: str, value: Data, findings: MigrationFindings, *, as_files: bool) -> Dataset:
    """Return a dataset of the right kind with the reference as its path."""
    if as_files:
        findings.taken(f"{field}.type", value.type, "FileDataset, once its location is known")
        return FileDataset(paths=[value.path]).as_named_input(_name(name))
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    why = f"once its location is known, a file {FILE_NAME} or the extension of its files determines the format"
    findings.changed(f"{field}.type", value.type, "TabularDataset", why)
    return TabularDataset(paths=[value.path], format="parquet").as_named_input(_name(name))


def _report_mode(field: str, value: Data, findings: MigrationFindings) -> None:
    if value.mode is not None:
        why = "files are read in place; objects in a store are fetched in advance"
        findings.left_out(f"{field}.mode", value.mode, why)


def side_inputs(split: str, inputs: Mapping[str, Input], references: References, findings: MigrationFindings) -> dict[str, str]:
    """Return the paths of the other data inputs; literals go into the arguments."""
    paths = {}
    for name, value in inputs.items():
        if isinstance(value, Data) and name != split:
            location = references.resolve(value.path, value.folder, f"inputs.{name}.path", findings)
            _report_mode(f"inputs.{name}", value, findings)
            paths[_name(name)] = value.path if location is None else location
            if location is not None:
                findings.taken(f"inputs.{name}", value.path, f"side input {location}")
        elif isinstance(value, Literal):
            findings.taken(f"inputs.{name}", value.text, "a string in the arguments")
        elif isinstance(value, Missing):
            findings.open_value(f"inputs.{name}", value.reference)
    return paths


def _name(name: str) -> str:
    """Return an input's name, which Azure restricts to the same characters."""
    if not name.isidentifier():
        raise ValueError(f"inputs: expected names of letters, digits and '_' that do not start with a digit, got {name!r}")
    return name
