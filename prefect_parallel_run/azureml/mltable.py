"""Loads MLTable files: the files of a table, their format, and the transformations of rows and columns."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.azureml.references import References, is_unresolved
from prefect_parallel_run.azureml.schema import MLTABLE, READERS, TRANSFORMATIONS, refuse, unknown
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.base import similar, wrong_fields
from prefect_parallel_run.config.yaml_reader import Section, read_document
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset, PartitionFormat
from prefect_parallel_run.datasets.partitions import folder_keys
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import absolute_location

if TYPE_CHECKING:
    from prefect_parallel_run.datasets.tabular import TabularDataset

FILE_NAME = "MLTable"
_READERS = {"read_delimited": "delimited", "read_parquet": "parquet", "read_json_lines": "json_lines"}
_ENCODINGS = {
    "utf8": "utf-8",
    "utf8bom": "utf-8",
    "iso88591": "latin-1",
    "latin1": "latin-1",
    "ascii": "ascii",
    "utf16": "utf-16",
    "utf32": "utf-32",
    "windows1252": "cp1252",
}
_FILTERS = {
    "filter": "every row reaches run(): skip unwanted rows there, or write a filtered table",
    "skip": "every row reaches run(): write a table without the first rows",
    "take": "every row reaches run(): write a table with only the first rows",
    "take_random_sample": "every row reaches run(): draw the sample there, or write a table with it",
    "random_split": "every row reaches run(): write a table with the part",
    "select_partitions": "every row reaches run(): list only the wanted files",
}


class Table(NamedTuple):
    """The dataset of an MLTable file."""

    dataset: Dataset
    differences: list[Difference]


def load_mltable(
    path: Path, references: References | None = None, *, as_files: bool = False, partition_keys: Collection[str] = ()
) -> Table:
    """Return the dataset that an MLTable file describes, and the differences of its fields.

    Args:
        path: The file, or the folder with a file ``MLTable``; the paths in it are relative to its folder.
        references: Locations for names that only an Azure workspace can resolve.
        as_files: Use its files as items, regardless of their content (modes ``eval_mount`` and ``eval_download``).
        partition_keys: Partition keys of the step that reads the table.

    Raises:
        ValueError: The file is not an MLTable file, or describes something unsupported; the error names file and line.
        OSError: The file cannot be read.
    """
    file = path / FILE_NAME if path.is_dir() else path
    document = read_document(file)
    steps = _transformations(document)
    refuse([*unknown(document, MLTABLE), *_unknown_in_steps(steps)])
    findings = MigrationFindings()
    paths = _paths(document, references or References(), findings)
    reader = next((step for step in steps if step.name.startswith("read_")), None)
    for key in sorted(document.keys() - {"$schema", "type", "paths", "transformations"}):
        findings.left_out(key, document[key], "does not affect rows or columns here")
    if reader is None or as_files:
        return Table(_files(paths, steps, findings), findings.differences)
    table = _table(paths, reader, document, findings)
    for step in steps:
        if step is not reader and step.name == "convert_column_types":
            table = _with_types(step, table, findings)
        elif step is not reader:
            _column_step(step, table, partition_keys, findings)
    return Table(table, findings.differences)


def table_at(
    location: str, references: References, *, as_files: bool, field: str, partition_keys: Collection[str] = ()
) -> Table:
    """Return the table of an input of type mltable: an MLTable file, or files that the user has provided there.

    Raises:
        ValueError: There is neither; the error names *field*.
    """
    if not is_remote(location) and (Path(location).name == FILE_NAME or (Path(location) / FILE_NAME).is_file()):
        return load_mltable(Path(location), references, as_files=as_files, partition_keys=partition_keys)
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    try:
        name = (
            location
            if Path(location).suffix in _EXTENSIONS
            else next((file.path for file in FileDataset(paths=[location]).listing()), "")
        )
    except InputError as error:
        raise ValueError(f"{field}: {error}") from None
    extension = Path(name).suffix
    if extension not in _EXTENSIONS:
        expected = f"a folder with a file {FILE_NAME}, or tables with the extension {', '.join(_EXTENSIONS)}"
        raise ValueError(f"{field}: no table at {location}; expected {expected}")
    findings = MigrationFindings()
    why = "no file MLTable defines the format"
    findings.changed("read", None, f"as {_EXTENSIONS[extension]}, by the extension {extension}", why)
    return Table(TabularDataset(paths=[location], format=_EXTENSIONS[extension]), findings.differences)


_EXTENSIONS: dict[str, Literal["parquet", "delimited", "json_lines"]] = {
    ".parquet": "parquet",
    ".csv": "delimited",
    ".jsonl": "json_lines",
}


class _Step(NamedTuple):
    """One transformation: its name, its value, and its file and line."""

    name: str
    value: Any
    where: str

    @property
    def options(self) -> dict[str, Any]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise ValueError(f"{self.where}: {self.name} is {self.value!r}; expected a mapping of options")
        return self.value


def _paths(document: Section, references: References, findings: MigrationFindings) -> list[str]:
    entries = document.get("paths")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{document.where('paths')}: paths is {entries!r}; expected a list of file, folder and pattern")
    paths = []
    folder = document.file.absolute().parent
    for number, entry in enumerate(entries):
        kind = next(iter(entry), None) if isinstance(entry, Section) and len(entry) == 1 else None
        if kind not in ("file", "folder", "pattern") or not isinstance(entry[kind], str):
            raise ValueError(f"{document.where('paths')}: paths has {entry!r}; expected file, folder or pattern with a path")
        location = references.resolve(entry[kind], folder, f"paths[{number}].{kind}", findings)
        paths.append(entry[kind] if location is None else absolute_location(location))
        if kind == "folder" and location is not None and Path(location) in document.file.absolute().parents:
            why = "the folder contains this MLTable file, which would be read too; write a pattern such as ./**/*.csv"
            findings.open(f"paths[{number}].{kind}", entry[kind], why)
    return paths


def _transformations(document: Section) -> list[_Step]:
    entries = document.get("transformations") or []
    steps = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):  # a transformation without options
            steps.append(_Step(entry, None, document.where("transformations")))
        elif isinstance(entry, Section) and len(entry) == 1:
            ((name, value),) = entry.items()
            steps.append(_Step(name, value, entry.where(name)))
        else:
            raise ValueError(
                f"{document.where('transformations')}: transformations has {entry!r}; expected one transformation per entry"
            )
    return steps


def _unknown_in_steps(steps: Iterable[_Step]) -> Iterator[str]:
    """Yield a line for each transformation and each reader option that is unknown to Azure."""
    for step in steps:
        if step.name not in TRANSFORMATIONS:
            yield f"{step.where}: unknown transformation {step.name!r}{similar(step.name, TRANSFORMATIONS)}"
        elif step.name in READERS and isinstance(step.value, Section):
            yield from unknown(step.value, READERS[step.name], f"{step.name}.")


def _files(paths: list[str], steps: list[_Step], findings: MigrationFindings) -> FileDataset:
    partition_format = None
    for step in steps:
        where = f"transformations.{step.name}"
        if step.name == "extract_columns_from_partition_format":
            partition_format = _partition_format(step)
            PartitionFormat(partition_format)
            findings.taken(where, partition_format, f"partition_format={partition_format!r}")
        elif step.name in _FILTERS:
            findings.open(where, step.value, "every file is an item here: list only the wanted files")
        else:
            findings.left_out(where, None, "the files themselves are the items")
    return FileDataset(paths=paths, partition_format=partition_format)


def _table(paths: list[str], reader: _Step, document: Section, findings: MigrationFindings) -> TabularDataset:
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    if reader.name not in _READERS:
        why = "its files still contain deleted rows; write the table to Parquet files"
        raise ValueError(f"{reader.where}: {reader.name} is not supported: {why}")
    fields: dict[str, Any] = {"paths": paths, "format": _READERS[reader.name]}
    for name, value in reader.options.items():
        _reader_option(reader, name, value, fields, findings)
    try:
        dataset = TabularDataset(**fields)
    except ValidationError as error:
        message = "; ".join(wrong_fields(error).values())
        raise ValueError(f"{reader.where}: {reader.name}: {message}") from None
    if document.get("type") not in (None, "mltable"):
        raise document.error("type", "mltable")
    return dataset


def _reader_option(reader: _Step, name: str, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Record one option of a reader, and set the corresponding field."""
    where = f"{reader.name}.{name}"
    if name == "delimiter":
        if not isinstance(value, str):
            raise ValueError(f"{reader.where}: delimiter is {value!r}; expected a string")
        fields["delimiter"] = {"\\t": "\t", "tab": "\t"}.get(value, value)
        findings.taken(where, value, f"delimiter={fields['delimiter']!r}")
    elif name == "encoding":
        if value not in _ENCODINGS:
            raise ValueError(f"{reader.where}: encoding is {value!r}; expected one of {', '.join(_ENCODINGS)}")
        fields["encoding"] = _ENCODINGS[value]
        findings.taken(where, value, f"encoding={fields['encoding']!r}")
    elif name == "header":
        _header(reader, value, fields, findings)
    else:
        _other_option(where, name, value, findings)


def _header(reader: _Step, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    where = "read_delimited.header"
    if value == "all_files_same_headers":
        findings.taken(where, value, "header=True")
    elif value == "no_header":
        fields["header"] = False
        findings.changed(where, value, "header=False", "columns are numbered from 0 instead of named Column1, Column2, …")
    elif value == "all_files_different_headers":
        why = "each file has its own columns; a mini-batch has only those of its file"
        findings.changed(where, value, "header=True", why)
    elif value == "from_first_file":
        why = "the first line of every file is read as its header, so a row of each further file would be lost"
        if _is_one_file(fields["paths"]):
            findings.taken(where, value, "header=True")
        else:
            findings.open(where, value, why)
    else:
        expected = "no_header, from_first_file, all_files_different_headers or all_files_same_headers"
        raise ValueError(f"{reader.where}: header is {value!r}; expected {expected}")


def _is_one_file(paths: list[str]) -> bool:
    return len(paths) == 1 and not glob.has_magic(paths[0]) and not Path(paths[0]).is_dir()


#: Options of readers: the value that matches the behaviour here, and the reason why other values have no effect.
_OTHER: dict[str, tuple[Any, str]] = {
    "empty_as_string": (False, "empty fields are nulls, as pandas reads them"),
    "include_path_column": (False, "tables have no column Path; context.dataset names the input of a row"),
    "support_multi_line": (True, "line breaks in quotes never end a record here"),
    "infer_column_types": (True, "pandas infers the column types"),
    "invalid_lines": ("error", "an invalid line fails its mini-batch"),
    "path_column": (None, "tables have no column Path; context.dataset names the input of a row"),
    "partition_size": (None, "mini_batch_size determines how a table is split"),
}


def _other_option(where: str, name: str, value: Any, findings: MigrationFindings) -> None:
    default, why = _OTHER[name]
    if value == default:
        findings.taken(where, value, "the same")
    elif name == "support_multi_line":
        findings.changed(where, value, "true", why)
    else:
        findings.left_out(where, value, why)


def _column_step(step: _Step, dataset: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings) -> None:
    """Record a transformation after the reader."""
    where = f"transformations.{step.name}"
    if step.name in _FILTERS:
        findings.open(where, step.value, _FILTERS[step.name])
    elif step.name in _COLUMNS:
        findings.left_out(where, step.value, _COLUMNS[step.name])
    elif step.name == "extract_columns_from_partition_format":
        _keys_of_folders(where, step, dataset, partition_keys, findings)
    else:
        findings.open(where, step.value, "only the first reader of a table applies")


_COLUMNS = {
    "keep_columns": "run() gets all columns: select them there",
    "drop_columns": "run() gets all columns: select them there",
}
#: Column types of delimited text here by Azure's names; all of them allow missing values.
_TYPES = {"string": "string", "int": "Int64", "float": "float64", "boolean": "boolean"}


def _with_types(step: _Step, dataset: TabularDataset, findings: MigrationFindings) -> TabularDataset:
    """Return *dataset* with the plain types in convert_column_types; the others are recorded as left out."""
    where = f"transformations.{step.name}"
    entries = step.value if isinstance(step.value, list) else [step.value]
    if not all(isinstance(entry, Section) and {"columns", "column_type"} <= entry.keys() for entry in entries) or not entries:
        findings.left_out(where, step.value, "expected a list of mappings with columns and column_type")
        return dataset
    types: dict[str, str] = {}
    for entry in entries:
        names, kind = entry["columns"], _plain_type(entry["column_type"])
        columns = [str(name) for name in (names if isinstance(names, list) else [names])]
        if kind is not None and dataset.format == "delimited":
            types |= {_column_name(name, dataset): kind for name in columns}
        else:
            column_types = f"{', '.join(columns)}: {_without_lines(entry['column_type'])}"
            findings.left_out(where, column_types, _WHY_NO_TYPE if kind is None else _WHY_TYPED)
    if not types:
        return dataset
    findings.taken(where, None, f"column_types={types!r}")
    return dataset.model_copy(update={"column_types": {**(dataset.column_types or {}), **types}})


_WHY_NO_TYPE = f"only the types {', '.join(_TYPES)} without options are taken over: convert the columns in run()"
_WHY_TYPED = "columns have the types in the files: convert them in run()"


def _plain_type(kind: Any) -> str | None:
    """Return the type here for an Azure type; None for a type with options, or one that text lacks."""
    return _TYPES.get(kind) if isinstance(kind, str) else None


def _column_name(name: str, dataset: TabularDataset) -> str:
    """Return the name of a column here: without a header, Azure's Column1 is number 0."""
    number = name.removeprefix("Column")
    is_number = not dataset.header and number != name and number.isdecimal() and int(number) > 0
    return str(int(number) - 1) if is_number else name


def _without_lines(value: Any) -> Any:
    """Return a section as a plain dict for display."""
    return dict(value) if isinstance(value, Section) else value


def _keys_of_folders(
    where: str, step: _Step, dataset: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings
) -> None:
    """Record the keys of a partition format: here they come from hive folders (``store=1/``), or are columns of the files.

    A missing key that is a partition key requires a decision, since there would be no mini-batches.
    """
    text = _partition_format(step)
    keys = PartitionFormat(text).keys
    hive = _hive_keys(dataset)
    missing = [key for key in keys if key not in hive]
    if not missing:
        findings.taken(where, text, "the keys of the folders, which are columns")
        return
    if hive:
        why = f"the columns have the names of the folders, {', '.join(hive)}: {', '.join(missing)} is missing"
        advice = "rename the folders, or use the folders' names"
    else:
        why = f"paths do not add columns to a table here: {', '.join(missing)} is missing"
        advice = f"use folders such as {missing[0]}=1, or write the columns into the files"
    wanted = [key for key in missing if key in partition_keys]
    if wanted:
        findings.open(where, text, f"partition_keys need {', '.join(wanted)}; {why}; {advice}")
    elif hive:
        findings.changed(where, text, "the keys of the folders", f"{why}; {advice}")
    else:
        findings.left_out(where, text, f"{why}; {advice}")


def _hive_keys(dataset: TabularDataset) -> list[str]:
    """Return the keys of the files' folders; empty if the files are not on this machine."""
    if any(is_remote(path) or is_unresolved(path) for path in dataset.paths):
        return []
    try:
        return folder_keys(dataset.listing())
    except InputError:  # the step reports missing files
        return []


def _partition_format(step: _Step) -> str:
    """Return the format; unquoted, YAML reads ``{day:yyyy/MM}`` as a mapping without values."""
    value = step.value
    if isinstance(value, dict) and isinstance(value.get("partition_format"), str):
        return str(value["partition_format"])
    if isinstance(value, dict) and len(value) == 1 and next(iter(value.values())) is None:
        return f"{{{next(iter(value))}}}"
    if not isinstance(value, str):
        raise ValueError(f"{step.where}: {step.name} is {value!r}; expected a format such as '{{user}}/{{day:yyyy/MM/dd}}'")
    return value
