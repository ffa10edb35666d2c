"""MLTable files: which files a table is made of, how they are written, and what is done to its rows and columns."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from prefect_parallel_run.azureml.documents import Section, read_document
from prefect_parallel_run.azureml.findings import Difference, MigrationFindings
from prefect_parallel_run.azureml.references import References, needs_a_place
from prefect_parallel_run.azureml.schema import MLTABLE, READERS, TRANSFORMATIONS, meant, refuse, unknown
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.config.model import wrong_fields
from prefect_parallel_run.datasets.base import Dataset, absolute
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.partition_format import PartitionFormat
from prefect_parallel_run.datasets.partitions import folder_keys
from prefect_parallel_run.errors import InputError

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
    "filter": "every row reaches run(): leave out there what is not wanted, or write the table anew",
    "skip": "every row reaches run(): write the table anew without the first ones",
    "take": "every row reaches run(): write the table anew with the first ones only",
    "take_random_sample": "every row reaches run(): draw the sample there, or write the table anew",
    "random_split": "every row reaches run(): write the table anew",
    "select_partitions": "every row reaches run(): name the files that are wanted",
}


class Table(NamedTuple):
    """What an MLTable file stands for here."""

    dataset: Dataset
    differences: list[Difference]


def load_mltable(
    path: Path, references: References | None = None, *, as_files: bool = False, partition_keys: Collection[str] = ()
) -> Table:
    """Return the dataset that an MLTable file describes, and what became of each of its fields.

    Args:
        path: The file, or the folder that holds a file ``MLTable``; the paths in it are relative to it.
        references: Places of what only a workspace of Azure's knows.
        as_files: Take its files as items, whatever they hold (modes ``eval_mount`` and ``eval_download``).
        partition_keys: Of the step that reads it.

    Raises:
        ValueError: It is no MLTable file, or describes what no dataset here can be; the error names file and line.
        OSError: It cannot be read.
    """
    file = path / FILE_NAME if path.is_dir() else path
    document = read_document(file)
    steps = _transformations(document)
    refuse([*unknown(document, MLTABLE), *_unknown_in_steps(steps)])
    findings = MigrationFindings()
    paths = _paths(document, references or References(), findings)
    reader = next((step for step in steps if step.name.startswith("read_")), None)
    for key in sorted(document.keys() - {"$schema", "type", "paths", "transformations"}):
        findings.left(key, document[key], "says nothing about rows or columns here")
    if reader is None or as_files:
        return Table(_files(paths, steps, findings), findings.found)
    table = _table(paths, reader, document, findings)
    for step in steps:
        if step is not reader and step.name == "convert_column_types":
            table = _with_types(step, table, findings)
        elif step is not reader:
            _column_step(step, table, partition_keys, findings)
    return Table(table, findings.found)


def table_at(place: str, references: References, *, as_files: bool, field: str, partition_keys: Collection[str] = ()) -> Table:
    """Return what lies at the place of an input of type mltable: an MLTable file, or tables that a person has put there.

    Raises:
        ValueError: There is neither; the error names *field*.
    """
    if not is_remote(place) and (Path(place).name == FILE_NAME or (Path(place) / FILE_NAME).is_file()):
        return load_mltable(Path(place), references, as_files=as_files, partition_keys=partition_keys)
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    try:
        name = (
            place if Path(place).suffix in _ENDINGS else next((file.path for file in FileDataset(paths=[place]).listing()), "")
        )
    except InputError as error:
        raise ValueError(f"{field}: {error}") from None
    ending = Path(name).suffix
    if ending not in _ENDINGS:
        accepted = f"a folder with a file {FILE_NAME}, or tables that end in {', '.join(_ENDINGS)}"
        raise ValueError(f"{field}: {place} holds no table; accepted: {accepted}")
    findings = MigrationFindings()
    why = "there is no MLTable file to say how it is written"
    findings.changed("read", None, f"as {_ENDINGS[ending]}, by its ending {ending}", why)
    return Table(TabularDataset(paths=[place], format=_ENDINGS[ending]), findings.found)


_ENDINGS: dict[str, Literal["parquet", "delimited", "json_lines"]] = {
    ".parquet": "parquet",
    ".csv": "delimited",
    ".jsonl": "json_lines",
}


class _Step(NamedTuple):
    """One transformation: its name, what it says, and where it stands."""

    name: str
    value: Any
    where: str

    @property
    def options(self) -> dict[str, Any]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise ValueError(f"{self.where}: {self.name} is {self.value!r}; accepted: a mapping of options")  # noqa: TRY004  a file's value
        return self.value


def _paths(document: Section, references: References, findings: MigrationFindings) -> list[str]:
    entries = document.get("paths")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{document.where('paths')}: paths is {entries!r}; accepted: a list of file, folder and pattern")
    found = []
    folder = document.file.absolute().parent
    for number, entry in enumerate(entries):
        kind = next(iter(entry), None) if isinstance(entry, Section) and len(entry) == 1 else None
        if kind not in ("file", "folder", "pattern") or not isinstance(entry[kind], str):
            raise ValueError(f"{document.where('paths')}: has {entry!r}; accepted: file, folder or pattern with a path")
        place = references.place(entry[kind], folder, f"paths[{number}].{kind}", findings)
        found.append(entry[kind] if place is None else absolute(place))
        if kind == "folder" and place is not None and Path(place) in document.file.absolute().parents:
            why = "the folder holds this MLTable file itself, which would be read too; write a pattern such as ./**/*.csv"
            findings.open(f"paths[{number}].{kind}", entry[kind], why)
    return found


def _transformations(document: Section) -> list[_Step]:
    entries = document.get("transformations") or []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):  # a transformation without options
            found.append(_Step(entry, None, document.where("transformations")))
        elif isinstance(entry, Section) and len(entry) == 1:
            ((name, value),) = entry.items()
            found.append(_Step(name, value, entry.where(name)))
        else:
            raise ValueError(f"{document.where('transformations')}: has {entry!r}; accepted: one transformation per entry")
    return found


def _unknown_in_steps(steps: Iterable[_Step]) -> Iterator[str]:
    """Yield a line for each transformation, and each option of a reader, that Azure does not know."""
    for step in steps:
        if step.name not in TRANSFORMATIONS:
            yield f"{step.where}: unknown transformation {step.name!r}{meant(step.name, TRANSFORMATIONS)}"
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
            findings.open(where, step.value, "every file is an item here: name those that are wanted")
        else:
            findings.left(where, None, "the files themselves are the items")
    return FileDataset(paths=paths, partition_format=partition_format)


def _table(paths: list[str], reader: _Step, document: Section, findings: MigrationFindings) -> TabularDataset:
    from prefect_parallel_run.datasets.tabular import TabularDataset  # noqa: PLC0415  pandas, which files never need

    if reader.name not in _READERS:
        why = "rows that are deleted in it still lie in its files; write the table to Parquet files"
        raise ValueError(f"{reader.where}: {reader.name} cannot be read here: {why}")
    fields: dict[str, Any] = {"paths": paths, "format": _READERS[reader.name]}
    for name, value in reader.options.items():
        _reader_option(reader, name, value, fields, findings)
    try:
        dataset = TabularDataset(**fields)
    except ValidationError as error:
        words = "; ".join(wrong_fields(error).values())
        raise ValueError(f"{reader.where}: {reader.name}: {words}") from None
    if document.get("type") not in (None, "mltable"):
        raise document.wrong("type", "mltable")
    return dataset


def _reader_option(reader: _Step, name: str, value: Any, fields: dict[str, Any], findings: MigrationFindings) -> None:
    """Note one option of a reader, and set the field that stands for it."""
    where = f"{reader.name}.{name}"
    if name == "delimiter":
        if not isinstance(value, str):
            raise ValueError(f"{reader.where}: delimiter is {value!r}; accepted: a text")
        fields["delimiter"] = {"\\t": "\t", "tab": "\t"}.get(value, value)
        findings.taken(where, value, f"delimiter={fields['delimiter']!r}")
    elif name == "encoding":
        if value not in _ENCODINGS:
            raise ValueError(f"{reader.where}: encoding is {value!r}; accepted: {', '.join(_ENCODINGS)}")
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
        findings.changed(where, value, "header=False", "columns are numbered from 0, and not called Column1, Column2, …")
    elif value == "all_files_different_headers":
        why = "each file has its own columns; a mini-batch has those of its file only"
        findings.changed(where, value, "header=True", why)
    elif value == "from_first_file":
        why = "the first line of every file is taken for its header, so a row of each further file would be lost"
        if _is_one_file(fields["paths"]):
            findings.taken(where, value, "header=True")
        else:
            findings.open(where, value, why)
    else:
        accepted = "no_header, from_first_file, all_files_different_headers, all_files_same_headers"
        raise ValueError(f"{reader.where}: header is {value!r}; accepted: {accepted}")


def _is_one_file(paths: list[str]) -> bool:
    return len(paths) == 1 and not glob.has_magic(paths[0]) and not Path(paths[0]).is_dir()


#: Options of readers: the value that asks for what happens here anyway, and what happens where another is given.
_OTHER: dict[str, tuple[Any, str]] = {
    "empty_as_string": (False, "empty fields are nulls, as pandas reads them"),
    "include_path_column": (False, "there is no column Path; which input a row is of says context.dataset"),
    "support_multi_line": (True, "line breaks in quotes never end a record here"),
    "infer_column_types": (True, "columns have the types that pandas gives them"),
    "invalid_lines": ("error", "a line that is no JSON fails its mini-batch"),
    "path_column": (None, "there is no column Path; which input a row is of says context.dataset"),
    "partition_size": (None, "mini_batch_size says how a table is cut"),
}


def _other_option(where: str, name: str, value: Any, findings: MigrationFindings) -> None:
    usual, why = _OTHER[name]
    if value == usual:
        findings.taken(where, value, "the same")
    elif name == "support_multi_line":
        findings.changed(where, value, "true", why)
    else:
        findings.left(where, value, why)


def _column_step(step: _Step, dataset: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings) -> None:
    """Note a transformation of a table that is already read."""
    where = f"transformations.{step.name}"
    if step.name in _FILTERS:
        findings.open(where, step.value, _FILTERS[step.name])
    elif step.name in _COLUMNS:
        findings.left(where, step.value, _COLUMNS[step.name])
    elif step.name == "extract_columns_from_partition_format":
        _keys_of_folders(where, step, dataset, partition_keys, findings)
    else:
        findings.open(where, step.value, "a table is read once: only the first of these counts")


_COLUMNS = {
    "keep_columns": "run() gets all columns: choose among them there",
    "drop_columns": "run() gets all columns: choose among them there",
}
#: Types of Azure's that a column of delimited text is given here, gaps or not.
_TYPES = {"string": "string", "int": "Int64", "float": "float64", "boolean": "boolean"}


def _with_types(step: _Step, dataset: TabularDataset, findings: MigrationFindings) -> TabularDataset:
    """Return *dataset* with the plain types that convert_column_types names; the others are noted, and left out."""
    where = f"transformations.{step.name}"
    entries = step.value if isinstance(step.value, list) else [step.value]
    if not all(isinstance(entry, Section) and {"columns", "column_type"} <= entry.keys() for entry in entries) or not entries:
        findings.left(where, step.value, "accepted: a list of mappings with columns and column_type")
        return dataset
    types: dict[str, str] = {}
    for entry in entries:
        given, kind = entry["columns"], _plain_type(entry["column_type"])
        columns = [str(name) for name in (given if isinstance(given, list) else [given])]
        if kind is not None and dataset.format == "delimited":
            types |= {_column_name(name, dataset): kind for name in columns}
        else:
            what = f"{', '.join(columns)}: {_without_lines(entry['column_type'])}"
            findings.left(where, what, _WHY_NO_TYPE if kind is None else _WHY_TYPED)
    if not types:
        return dataset
    findings.taken(where, None, f"column_types={types!r}")
    return dataset.model_copy(update={"column_types": {**(dataset.column_types or {}), **types}})


_WHY_NO_TYPE = f"only the types {', '.join(_TYPES)}, without options, are taken over: convert the columns in run()"
_WHY_TYPED = "columns have the types that the files have: convert them in run()"


def _plain_type(given: Any) -> str | None:
    """Return the type here for a type of Azure's; None for one with options, or one that text has none for."""
    return _TYPES.get(given) if isinstance(given, str) else None


def _column_name(name: str, dataset: TabularDataset) -> str:
    """Return what a column is called here: without a header Azure's Column1 is number 0."""
    number = name.removeprefix("Column")
    is_number = not dataset.header and number != name and number.isdecimal() and int(number) > 0
    return str(int(number) - 1) if is_number else name


def _without_lines(value: Any) -> Any:
    """Return a mapping of a file as a plain one, to be shown."""
    return dict(value) if isinstance(value, Section) else value


def _keys_of_folders(
    where: str, step: _Step, dataset: TabularDataset, partition_keys: Collection[str], findings: MigrationFindings
) -> None:
    """Note the keys of a partition format: here they come from hive folders (``store=1/``), or are columns of the files.

    One that mini-batches are made by has to be decided: there would be none of them.
    """
    text = _partition_format(step)
    keys = PartitionFormat(text).keys
    hive = _hive_keys(dataset)
    missing = [key for key in keys if key not in hive]
    if not missing:
        findings.taken(where, text, "the keys of the folders, which are columns")
        return
    if hive:
        why = f"the columns are called as the folders are, {', '.join(hive)}: there is no {', '.join(missing)}"
        what = "rename the folders, or use the folders' names"
    else:
        why = f"paths say nothing of a table's rows here, so there is no column {', '.join(missing)}"
        what = f"have folders such as {missing[0]}=1, or write the columns into the files"
    wanted = [key for key in missing if key in partition_keys]
    if wanted:
        findings.open(where, text, f"partition_keys need {', '.join(wanted)}; {why}; {what}")
    elif hive:
        findings.changed(where, text, "the keys of the folders", f"{why}; {what}")
    else:
        findings.left(where, text, f"{why}; {what}")


def _hive_keys(dataset: TabularDataset) -> list[str]:
    """Return the keys of the folders that the files lie in; none where the files are not here to be looked at."""
    if any(is_remote(path) or needs_a_place(path) for path in dataset.paths):
        return []
    try:
        return folder_keys(dataset.listing())
    except InputError:  # missing files are told by the step that reads them
        return []


def _partition_format(step: _Step) -> str:
    """Return the format; without quotes YAML takes ``{day:yyyy/MM}`` for a mapping without values."""
    value = step.value
    if isinstance(value, dict) and isinstance(value.get("partition_format"), str):
        return str(value["partition_format"])
    if isinstance(value, dict) and len(value) == 1 and next(iter(value.values())) is None:
        return f"{{{next(iter(value))}}}"
    if not isinstance(value, str):
        raise ValueError(f"{step.where}: {step.name} is {value!r}; accepted: a format such as '{{user}}/{{day:yyyy/MM/dd}}'")  # noqa: TRY004  the same
    return value
