"""The form of the ready-made flows: inputs, side inputs, configuration; and their conversion to the step's values.

Every kind of input has a key of its own (``files``, ``parquet_files``, …), so that a value matches exactly one kind, both in
Prefect's forms and here. Prefect passes the values on unchanged, as JSON; this module converts them to what a step takes.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from prefect_parallel_run.compute.blocks import DaskComputeTarget
from prefect_parallel_run.config.base import FormModel, Model, problems
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.quoting import shown
from prefect_parallel_run.config.where import ComputeTarget
from prefect_parallel_run.datasets.base import Dataset, given_paths
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.tabular import TabularDataset

_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"
_LAST = 10  #: position of the fields that all inputs share; the other fields have none and come first
_TAB, _NO_QUOTES = r"\t", "none"  #: spelling in a form of values that cannot be typed into it

Paths = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Character = Annotated[str, Field(min_length=1, max_length=1)]


class ShownAs(NamedTuple):
    """Annotates a type that Python code may pass with the type that the form shows and JSON is validated against."""

    kind: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the annotated type."""
        return handler.generate_schema(self.kind)


class _Input(FormModel):
    """Fields of every kind of input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str | None = Field(
        default=None,
        pattern=_IDENTIFIER,
        title="Name",
        description="Name of the input in the script; letters, digits and underscores. Empty: input_0, input_1, …",
        json_schema_extra={"position": _LAST},
    )
    allow_empty: bool = Field(
        default=False,
        title="Allow empty",
        description="Allow an input without items.",
        json_schema_extra={"position": _LAST},
    )

    @abstractmethod
    def dataset(self) -> Dataset:
        """Return the input as a dataset."""


def _paths(kind: str) -> Any:
    description = f"Paths, folders (including subfolders), globs or URLs of {kind}; one per entry."
    return Field(title="Paths", description=description)


class Files(_Input):
    """Every file is an item; run() gets a list of paths."""

    model_config = ConfigDict(title="Files")

    files: Paths = _paths("files")
    partition_format: str | None = Field(
        default=None,
        title="Partition format",
        description="For partition keys: pattern for the end of a path, such as {user}/{day:yyyy/MM/dd}/*.wav.",
    )

    def dataset(self) -> Dataset:
        """Return the files as a dataset."""
        return FileDataset(
            paths=given_paths(self.files),
            name=self.name,
            allow_empty=self.allow_empty,
            partition_format=self.partition_format,
        )


class _Table(_Input):
    def _table(self, paths: Iterable[str], **fields: Any) -> TabularDataset:
        return TabularDataset(paths=given_paths(paths), name=self.name, allow_empty=self.allow_empty, **fields)


class ParquetFiles(_Table):
    """Every row is an item; run() gets a DataFrame. Keys of hive folders (store=1/…) become columns."""

    model_config = ConfigDict(title="Parquet")

    parquet_files: Paths = _paths("Parquet files")

    def dataset(self) -> Dataset:
        """Return the rows as a dataset."""
        return self._table(self.parquet_files, format="parquet")


class _Text(_Table):
    """Fields of text files."""

    encoding: str = Field(
        default="utf-8",
        min_length=1,
        title="Encoding",
        description="Any encoding that Python supports, such as utf-8 or latin-1.",
        json_schema_extra={"position": _LAST - 1},
    )
    compression: Literal["infer", "gzip", "bz2", "xz", "zstd", "none"] = Field(
        default="infer",
        title="Compression",
        description="infer: from the extension .gz, .bz2, .xz or .zst.",
        json_schema_extra={"position": _LAST - 1},
    )

    @property
    def _stored(self) -> dict[str, Any]:
        return {"encoding": self.encoding, "compression": None if self.compression == "none" else self.compression}


class DelimitedFiles(_Text):
    """Every record is an item; run() gets a DataFrame, as pandas.read_csv reads it."""

    model_config = ConfigDict(title="Delimited text")

    delimited_files: Paths = _paths("CSV and similar files")
    delimiter: str = Field(
        default=",", pattern=r"^(.|\\t)$", title="Delimiter", description=r"Field separator; one character, \t for a tab."
    )
    header: bool = Field(default=True, title="Header", description="The first record of each file names the columns.")
    quote: str = Field(
        default='"',
        pattern="^(.|none)$",
        title="Quote",
        description="Quote character; or none to read quotes as data.",
    )
    double_quote: bool = Field(default=True, title="Doubled quotes", description="Two quotes in a quoted field stand for one.")
    escape: Character | None = Field(default=None, title="Escape", description="Escape character, such as a backslash.")
    decimal: Character = Field(default=".", title="Decimal point", description="One character.")
    column_types: dict[str, Literal["string", "int64", "Int64", "float64", "boolean"]] = Field(
        default={},
        title="Column types",
        description='A JSON object, such as {"id": "string"}: string, int64, Int64, float64 or boolean, as pandas names them.',
    )
    na_values: list[str] = Field(
        default=[],
        title="Missing values",
        description="Strings that stand for a missing value, in addition to those of pandas; one per entry.",
    )
    keep_default_na: bool = Field(
        default=True,
        title="Default missing values",
        description="Off: NA, null, empty fields and so on are strings; only the strings above stand for a missing value.",
    )

    def dataset(self) -> Dataset:
        """Return the records as a dataset."""
        return self._table(
            self.delimited_files,
            format="delimited",
            delimiter="\t" if self.delimiter == _TAB else self.delimiter,
            header=self.header,
            quote="" if self.quote == _NO_QUOTES else self.quote,
            double_quote=self.double_quote,
            escape=self.escape,
            decimal=self.decimal,
            column_types=dict(self.column_types),
            na_values=self.na_values,
            keep_default_na=self.keep_default_na,
            **self._stored,
        )


class JsonLinesFiles(_Text):
    """Every line, a JSON object, is an item; run() gets a DataFrame."""

    model_config = ConfigDict(title="JSON lines")

    json_lines_files: Paths = _paths("files with one JSON object per line")

    def dataset(self) -> Dataset:
        """Return the lines as a dataset."""
        return self._table(self.json_lines_files, format="json_lines", **self._stored)


class ArrowFiles(_Table):
    """Every row is an item; run() gets a DataFrame. Arrow IPC files and streams, and Feather (version 2)."""

    model_config = ConfigDict(title="Arrow")

    arrow_files: Paths = _paths("Arrow files")

    def dataset(self) -> Dataset:
        """Return the rows as a dataset."""
        return self._table(self.arrow_files, format="arrow")


class OrcFiles(_Table):
    """Every row is an item; run() gets a DataFrame."""

    model_config = ConfigDict(title="ORC")

    orc_files: Paths = _paths("ORC files")

    def dataset(self) -> Dataset:
        """Return the rows as a dataset."""
        return self._table(self.orc_files, format="orc")


Input = Files | ParquetFiles | DelimitedFiles | JsonLinesFiles | ArrowFiles | OrcFiles
_KINDS: dict[str, type[Input]] = {
    "files": Files,
    "parquet_files": ParquetFiles,
    "delimited_files": DelimitedFiles,
    "json_lines_files": JsonLinesFiles,
    "arrow_files": ArrowFiles,
    "orc_files": OrcFiles,
}


class SideInput(FormModel):
    """A file or folder that every process can reach."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, title="Side input")

    name: str = Field(pattern=_IDENTIFIER, title="Name", description="Arguments refer to it as {side_inputs.NAME}.")
    path: str = Field(min_length=1, title="Path", description="Path or URL.")


class SavedBlock(BaseModel):
    """A Dask cluster that was saved as a block: choose one, or add it."""

    # This schema accepts no object except a reference, which Prefect's server accepts in addition, by the title; that is why
    # the class has no title of its own. The block's own schema would match a reference too, and the server would reject that.
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"block_type_slug": DaskComputeTarget.get_block_type_slug(), "minProperties": 1},
    )


_Target = (
    Annotated[str, Field(title="Name or address", min_length=1)]
    | ComputeTarget
    | Annotated[SavedBlock, Field(title="Saved block")]
)


class Settings(ParallelRunConfig):
    """A ParallelRunConfig in the form; a saved block is a further choice of compute target."""

    compute_target: Annotated[str | ComputeTarget, ShownAs(_Target)] = ParallelRunConfig.model_fields["compute_target"]  # type: ignore[assignment]  # the same field with another annotation


def configuration(value: Any) -> ParallelRunConfig:
    """Return the configuration from a form's fields or a YAML file, or unchanged.

    Raises:
        ValueError: A value is invalid; the error names every such field.
    """
    if isinstance(value, ParallelRunConfig):
        return value
    if isinstance(value, str | os.PathLike):
        return ParallelRunConfig.load_yaml(value)
    fields = {**_mapping("config", value, "fields, or the path of a YAML file")}
    fields["compute_target"] = _load_block(fields.get("compute_target", "local"))
    return _build(ParallelRunConfig, "config", fields)


def dataset(index: int, value: Any) -> Any:
    """Return input number *index* as a step takes it; datasets, results and paths are returned unchanged.

    Raises:
        ValueError: The kind of the input is unknown, or one of its values is invalid.
    """
    if isinstance(value, _Input):
        return value.dataset()
    if not isinstance(value, Mapping):
        return value
    where = f"inputs[{index}]"
    kind = next((kind for key, kind in _KINDS.items() if key in value), None)
    if kind is None:
        raise ValueError(
            f"{where} has the fields {sorted(value)}; expected one of {', '.join(_KINDS)}, and options of its kind"
        )
    return _build(kind, where, value).dataset()


def side_inputs_by_name(values: Any) -> dict[str, Any]:
    """Return side inputs as a mapping of names to paths, from a mapping or a list.

    Raises:
        ValueError: An entry lacks a name or path, or a name is used twice.
    """
    if isinstance(values, Mapping):
        return {**values}
    paths: dict[str, Any] = {}
    for index, value in enumerate(values):
        where = f"side_inputs[{index}]"
        entry = value if isinstance(value, SideInput) else _build(SideInput, where, _mapping(where, value, "a name and a path"))
        if entry.name in paths:
            raise ValueError(f"{where} has the name {entry.name!r} of another side input; expected different names")
        paths[entry.name] = entry.path
    return paths


def _mapping(where: str, value: Any, expected: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {shown(value)}; expected {expected}")
    return value


def _build(kind: type[Model], where: str, fields: Mapping[str, Any]) -> Model:
    """Return a model; errors contain no values except those that its own validators show, which omit secrets."""
    try:
        return kind(**fields)
    except ValidationError as error:
        messages = [f"{'.'.join([where, *map(str, path)])}: {message}" for path, message in problems(error)]
        raise ValueError("\n".join(messages)) from None


def _load_block(target: Any) -> Any:
    """Return a compute target; a reference to a saved block (``{"$ref": …}``) is resolved."""
    if not isinstance(target, Mapping) or "$ref" not in target:
        return target
    block = Block.load_from_ref(target["$ref"], _sync=True)  # type: ignore[call-arg]  # async_dispatch adds _sync
    if not isinstance(block, DaskComputeTarget):
        raise ValueError(f"config.compute_target is a {type(block).__name__}; expected a {DaskComputeTarget.__name__}")
    return block.as_compute_target()
