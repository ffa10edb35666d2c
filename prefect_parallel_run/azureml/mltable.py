"""Loads MLTable files: the files of a table, their format, and the transformations of rows and columns."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.azureml.known_fields import refuse, unknown
from prefect_parallel_run.azureml.references import Migration, References, is_unresolved
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.base import construct, similar
from prefect_parallel_run.config.validation import either
from prefect_parallel_run.config.yaml_reader import Section, plain, read_document
from prefect_parallel_run.datasets.base import Dataset
from prefect_parallel_run.datasets.files import FileDataset, PartitionFormat
from prefect_parallel_run.datasets.partitions import folder_keys
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.storage.paths import absolute_location

if TYPE_CHECKING:
    from prefect_parallel_run.datasets.tabular import TabularDataset

FILE_NAME = "MLTable"
_LEFT = dict.fromkeys(
    ("traits", "metadata", "name", "version", "description", "tags", "query_source"), "does not affect rows or columns here"
)
_FIELDS = {*_LEFT, "$schema", "type", "paths", "transformations"}
_ANY_READER = {"include_path_column", "path_column", "partition_size"}
#: Options by reader; a reader is named after its format.
_READERS = {
    "read_delimited": {
        *_ANY_READER,
        *("delimiter", "encoding", "header", "infer_column_types", "empty_as_string", "support_multi_line"),
    },
    "read_parquet": _ANY_READER,
    "read_json_lines": {*_ANY_READER, "encoding", "invalid_lines"},
    "read_delta_lake": {*_ANY_READER, "timestamp_as_of", "version_as_of"},
}
_DELTA_LAKE = "read_delta_lake"
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
_FROM_FIRST_FILE = "from_first_file"
#: Values of header: whether there is one, and what differs.
_HEADERS = {
    "no_header": (False, "columns are numbered from 0 instead of named Column1, Column2, …"),
    _FROM_FIRST_FILE: (
        True,
        "the first line of every file is read as its header, so a row of each further file would be lost",
    ),
    "all_files_different_headers": (True, "each file has its own columns; a mini-batch has only those of its file"),
    "all_files_same_headers": (True, ""),
}
_NO_PATH_COLUMN = "tables have no column Path; context.dataset names the input of a row"
#: Other options of readers: the value that matches the behavior here, and the reason why others have no effect.
_OPTIONS: dict[str, tuple[Any, str]] = {
    "empty_as_string": (False, "empty fields are nulls, as pandas reads them"),
    "include_path_column": (False, _NO_PATH_COLUMN),
    "support_multi_line": (True, "line breaks in quotes never end a record here"),
    "infer_column_types": (True, "pandas infers the column types"),
    "invalid_lines": ("error", "an invalid line fails its mini-batch"),
    "path_column": (None, _NO_PATH_COLUMN),
    "partition_size": (None, "mini_batch_size determines how a table is split"),
}
_FILTERS = {
    "filter": "every row reaches run(): skip unwanted rows there, or write a filtered table",
    "skip": "every row reaches run(): write a table without the first rows",
    "take": "every row reaches run(): write a table with only the first rows",
    "take_random_sample": "every row reaches run(): draw the sample there, or write a table with it",
    "random_split": "every row reaches run(): write a table with the part",
    "select_partitions": "every row reaches run(): list only the wanted files",
}
_COLUMNS = ("keep_columns", "drop_columns")  #: methods of TabularDataset
_CONVERT, _EXTRACT = "convert_column_types", "extract_columns_from_partition_format"
_TRANSFORMATIONS = {*_READERS, *_FILTERS, *_COLUMNS, _CONVERT, _EXTRACT}
#: Column types of delimited text here by Azure's names; all of them allow missing values.
_TYPES = {"string": "string", "int": "Int64", "float": "float64", "boolean": "boolean"}
_WHY_NO_TYPE = f"only the types {', '.join(_TYPES)} without options are taken over: convert the columns in run()"
_WHY_TYPED = "columns have the types in the files: convert them in run()"
_EXTENSIONS: dict[str, Literal["parquet", "delimited", "json_lines"]] = {
    ".parquet": "parquet",
    ".csv": "delimited",
    ".jsonl": "json_lines",
}


class Table(NamedTuple):
    """The dataset of an MLTable file."""

    dataset: Dataset
    differences: list[Difference]


class _Step(NamedTuple):
    name: str
    value: Any
    where: str  #: its file and line

    @property
    def field(self) -> str:
        return f"transformations.{self.name}"

    @property
    def options(self) -> dict[str, Any]:
        if self.value is not None and not isinstance(self.value, dict):
            raise self.error(self.name, self.value, "a mapping of options")
        return self.value or {}

    def error(self, name: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self.where}: {name} is {value!r}; expected {expected}")


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
    document = read_document(path / FILE_NAME if path.is_dir() else path)
    steps = _transformations(document)
    refuse([*unknown(document, _FIELDS), *_unknown_in_steps(steps)])
    migration = Migration(references=references or References())
    reader = next((step for step in steps if step.name in _READERS), None)
    paths = _paths(document, migration, reads_all=reader is None or as_files or reader.name != _DELTA_LAKE)
    migration.left_out_of(document, _LEFT)
    if reader is None or as_files:
        return Table(_files(paths, steps, migration), migration.differences)
    table = _table(paths, reader, migration)
    if document.get("type") not in (None, "mltable"):
        raise document.error("type", "mltable")
    for step in steps:
        if step is not reader:
            table = _transformed(step, table, partition_keys, migration)
    return Table(table, migration.differences)


def table_at(
    location: str, field: str, references: References, partition_keys: Collection[str] = (), *, as_files: bool
) -> Table:
    """Return the table of an input of type mltable: an MLTable file, or files that the user has provided there.

    Raises:
        ValueError: There is neither; the error names *field*.
    """
    if not is_remote(location) and (Path(location).name == FILE_NAME or (Path(location) / FILE_NAME).is_file()):
        return load_mltable(Path(location), references, as_files=as_files, partition_keys=partition_keys)
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    extension = Path(location).suffix
    if extension not in _EXTENSIONS:
        try:
            extension = next((Path(file.path).suffix for file in FileDataset(paths=[location]).listing()), "")
        except InputError as error:
            raise ValueError(f"{field}: {error}") from None
    if extension not in _EXTENSIONS:
        expected = f"a folder with a file {FILE_NAME}, or tables with the extension {', '.join(_EXTENSIONS)}"
        raise ValueError(f"{field}: no table at {location}; expected {expected}")
    findings = MigrationFindings()
    why = "no file MLTable defines the format"
    findings.changed("read", None, f"as {_EXTENSIONS[extension]}, by the extension {extension}", why)
    return Table(TabularDataset(paths=[location], format=_EXTENSIONS[extension]), findings.differences)


def _paths(document: Section, migration: Migration, *, reads_all: bool) -> list[str]:
    """Return the paths as absolute ones; *reads_all*: the table consists of all files in a folder."""
    entries = document.get("paths")
    if not isinstance(entries, list) or not entries:
        raise document.error("paths", "a list of file, folder and pattern")
    paths = []
    folder = document.file.absolute().parent
    for number, entry in enumerate(entries):
        kind = next(iter(entry), None) if isinstance(entry, Section) and len(entry) == 1 else None
        if kind not in ("file", "folder", "pattern") or not isinstance(entry[kind], str):
            raise ValueError(f"{document.where('paths')}: paths has {entry!r}; expected file, folder or pattern with a path")
        location = migration.resolve(entry[kind], folder, f"paths[{number}].{kind}")
        paths.append(entry[kind] if location is None else absolute_location(location))
        if kind == "folder" and reads_all and location is not None and Path(location) in document.file.absolute().parents:
            why = "the folder contains this MLTable file, which would be read too; write a pattern such as ./**/*.csv"
            migration.open(f"paths[{number}].{kind}", entry[kind], why)
    return paths


def _transformations(document: Section) -> list[_Step]:
    entries = document.get("transformations") or []
    where = document.where("transformations")
    steps = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):  # a transformation without options
            steps.append(_Step(entry, None, where))
        elif isinstance(entry, Section) and len(entry) == 1:
            ((name, value),) = entry.items()
            steps.append(_Step(name, value, entry.where(name)))
        else:
            raise ValueError(f"{where}: transformations has {entry!r}; expected one transformation per entry")
    return steps


def _unknown_in_steps(steps: Iterable[_Step]) -> Iterator[str]:
    """Yield a line for each transformation and each reader option that is unknown to Azure."""
    for step in steps:
        if step.name not in _TRANSFORMATIONS:
            yield f"{step.where}: unknown transformation {step.name!r}{similar(step.name, _TRANSFORMATIONS)}"
        elif step.name in _READERS and isinstance(step.value, Section):
            yield from unknown(step.value, _READERS[step.name], f"{step.name}.")


def _files(paths: list[str], steps: list[_Step], findings: MigrationFindings) -> FileDataset:
    partition_format = None
    for step in steps:
        if step.name == _EXTRACT:
            partition_format = _partition_format(step)
            PartitionFormat(partition_format)
            findings.taken(step.field, partition_format, f"partition_format={partition_format!r}")
        elif step.name in _FILTERS:
            findings.open(step.field, step.value, "every file is an item here: list only the wanted files")
        else:
            findings.left_out(step.field, None, "the files themselves are the items")
    return FileDataset(paths=paths, partition_format=partition_format)


def _table(paths: list[str], reader: _Step, findings: MigrationFindings) -> TabularDataset:
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    fields: dict[str, Any] = {"paths": paths, "format": reader.name.removeprefix("read_").removesuffix("_lake")}
    for name, value in reader.options.items():
        _reader_option(reader, name, value, fields, findings)
    return construct(TabularDataset, fields, lambda _, message: f"{reader.where}: {reader.name}: {message}")


def _reader_option(reader: _Step, name: str, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    where = f"{reader.name}.{name}"
    if name == "delimiter":
        if not isinstance(value, str):
            raise reader.error(name, value, "a string")
        fields[name] = {"\\t": "\t", "tab": "\t"}.get(value, value)
        findings.taken(where, value, f"{name}={fields[name]!r}")
    elif name == "encoding":
        if not isinstance(value, str) or value not in _ENCODINGS:
            raise reader.error(name, value, f"one of {', '.join(_ENCODINGS)}")
        fields[name] = _ENCODINGS[value]
        findings.taken(where, value, f"{name}={fields[name]!r}")
    elif name == "header":
        _header(reader, value, fields, findings)
    elif name == "version_as_of":
        fields["version"] = value
        findings.taken(where, value, f"version={value!r}")
    elif name == "timestamp_as_of":
        _version_at(where, value, fields, findings)
    elif value == _OPTIONS[name][0]:
        findings.taken(where, value, "the same")
    elif name == "support_multi_line":
        findings.changed(where, value, "true", _OPTIONS[name][1])
    else:
        findings.left_out(where, value, _OPTIONS[name][1])


def _version_at(where: str, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Set the version that was the newest at a time, if the table can be read here."""
    from prefect_parallel_run.datasets.formats.delta import version_of  # noqa: PLC0415  pyarrow, which files never need

    time = value.isoformat() if isinstance(value, datetime) else str(value)
    try:
        fields["version"] = version_of(fields["paths"][0], time)
    except InputError as error:
        findings.open(where, value, f"set the version instead, since it cannot be determined here: {error}")
    else:
        findings.taken(where, value, f"version={fields['version']}")


def _header(reader: _Step, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    where = f"{reader.name}.header"
    if not isinstance(value, str) or value not in _HEADERS:
        raise reader.error("header", value, either(_HEADERS))
    has_header, why = _HEADERS[value]
    fields["header"] = has_header
    is_first = value == _FROM_FIRST_FILE
    if is_first and not _is_one_file(fields["paths"]):
        findings.open(where, value, why)
    elif is_first or not why:
        findings.taken(where, value, f"header={has_header}")
    else:
        findings.changed(where, value, f"header={has_header}", why)


def _is_one_file(paths: list[str]) -> bool:
    return len(paths) == 1 and not glob.has_magic(paths[0]) and not Path(paths[0]).is_dir()


def _transformed(
    step: _Step, table: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings
) -> TabularDataset:
    """Return *table* after a transformation that follows the reader."""
    if step.name == _CONVERT:
        return _with_types(step, table, findings)
    if step.name in _FILTERS:
        findings.open(step.field, step.value, _FILTERS[step.name])
    elif step.name in _COLUMNS:
        return _with_columns(step, table, findings)
    elif step.name == _EXTRACT:
        _report_keys(step, table, partition_keys, findings)
    else:
        findings.open(step.field, step.value, "only the first reader of a table applies")
    return table


def _with_columns(step: _Step, table: TabularDataset, findings: MigrationFindings) -> TabularDataset:
    """Return *table* after keep_columns or drop_columns; an empty list has no effect in Azure."""
    names = step.value if isinstance(step.value, list) else [step.value]
    if not all(isinstance(name, str) for name in names):
        raise step.error(step.name, step.value, "a column, or a list of columns")
    columns = [_column_name(name, table) for name in names]
    try:
        selected = getattr(table, step.name)(columns) if columns else table
    except ValueError as error:
        raise ValueError(f"{step.where}: {error}") from None
    findings.taken(step.field, ", ".join(names), f"{step.name}({columns!r})")
    return cast("TabularDataset", selected)


def _with_types(step: _Step, table: TabularDataset, findings: MigrationFindings) -> TabularDataset:
    """Return *table* with the plain types in convert_column_types; the others are recorded as left out."""
    entries = step.value if isinstance(step.value, list) else [step.value]
    if not all(isinstance(entry, Section) and {"columns", "column_type"} <= entry.keys() for entry in entries) or not entries:
        findings.left_out(step.field, step.value, "expected a list of mappings with columns and column_type")
        return table
    types: dict[str, str] = {}
    for entry in entries:
        names, kind = entry["columns"], entry["column_type"]
        columns = [str(name) for name in (names if isinstance(names, list) else [names])]
        is_plain = isinstance(kind, str) and kind in _TYPES  # others have options, or cannot be text
        if is_plain and table.format == "delimited":
            types |= {_column_name(name, table): _TYPES[kind] for name in columns}
        else:
            why = _WHY_TYPED if is_plain else _WHY_NO_TYPE
            findings.left_out(step.field, f"{', '.join(columns)}: {plain(kind)}", why)
    if not types:
        return table
    findings.taken(step.field, None, f"column_types={types!r}")
    return table.model_copy(update={"column_types": {**(table.column_types or {}), **types}})


def _column_name(name: str, table: TabularDataset) -> str:
    """Return the name of a column here: without a header, Azure's Column1 is number 0."""
    number = name.removeprefix("Column")
    is_number = not table.header and number != name and number.isdecimal() and int(number) > 0
    return str(int(number) - 1) if is_number else name


def _report_keys(step: _Step, table: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings) -> None:
    """Record the keys of a partition format: here they come from hive folders (``store=1/``), or are columns of the files.

    A missing key that is a partition key requires a decision, since there would be no mini-batches.
    """
    text = _partition_format(step)
    hive = _hive_keys(table)
    missing = [key for key in PartitionFormat(text).keys if key not in hive]
    if not missing:
        findings.taken(step.field, text, "the keys of the folders, which are columns")
        return
    if hive:
        why = f"the columns have the names of the folders, {', '.join(hive)}: {', '.join(missing)} is missing"
        advice = "rename the folders, or use the folders' names"
    else:
        why = f"paths do not add columns to a table here: {', '.join(missing)} is missing"
        advice = f"use folders such as {missing[0]}=1, or write the columns into the files"
    wanted = [key for key in missing if key in partition_keys]
    if wanted:
        findings.open(step.field, text, f"partition_keys need {', '.join(wanted)}; {why}; {advice}")
    elif hive:
        findings.changed(step.field, text, "the keys of the folders", f"{why}; {advice}")
    else:
        findings.left_out(step.field, text, f"{why}; {advice}")


def _hive_keys(table: TabularDataset) -> list[str]:
    """Return the keys of the files' folders; empty if the files are not on this machine."""
    if any(is_remote(path) or is_unresolved(path) for path in table.paths):
        return []
    try:
        return folder_keys(table.listing())
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
        raise step.error(step.name, value, "a format such as '{user}/{day:yyyy/MM/dd}'")
    return value
