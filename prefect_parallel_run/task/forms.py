"""The form of the ready-made flows: inputs, side inputs, configuration; and their conversion to the step's values.

Every kind of input has a key of its own (``files``, ``parquet_files``, …), so that a value matches exactly one kind, both in
Prefect's forms and here. Prefect passes the values on unchanged, as JSON; this module converts them to what a step takes.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema

from prefect_parallel_run._units import shown
from prefect_parallel_run.child.delimited import ColumnType
from prefect_parallel_run.child.table_formats import TABLE_FORMATS, TableFormat
from prefect_parallel_run.child.text import Codec
from prefect_parallel_run.compute.blocks import DaskComputeTarget
from prefect_parallel_run.config.base import FormModel, Model, construct
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import ComputeTarget
from prefect_parallel_run.datasets.base import Dataset, given_paths
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.sql import SqlDataset
from prefect_parallel_run.datasets.tabular import TABLE_NAME, TabularDataset

_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"
_LAST = 10  #: position of the fields that all inputs share; the other fields have none and come first
#: By field: spelling in a form of values that cannot be typed into it.
_SPELLING: dict[str, dict[str, str | None]] = {"delimiter": {r"\t": "\t"}, "quote": {"none": ""}, "compression": {"none": None}}

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

    name: str | None = Field(default=None, pattern=_IDENTIFIER, title="Name", json_schema_extra={"position": _LAST})
    """Name of the input in the script; letters, digits and underscores. Empty: input_0, input_1, …"""
    allow_empty: bool = Field(default=False, title="Allow empty", json_schema_extra={"position": _LAST})
    """Allow an input without items."""

    @classmethod
    def key(cls) -> str:
        """Return the name of the field with the paths, which identifies the kind of an input."""
        return next(name for name in cls.model_fields if name.endswith(("files", "query")))

    @abstractmethod
    def dataset(self) -> Dataset:
        """Return the input as a dataset."""

    def _fields(self) -> dict[str, Any]:
        """Return the fields of the dataset, which have the same names here."""
        options = self.model_dump(exclude={self.key()})
        meant = {name: _SPELLING[name].get(value, value) if name in _SPELLING else value for name, value in options.items()}
        return {"paths": given_paths(getattr(self, self.key())), **meant}


def _paths(kind: str) -> Any:
    description = f"Paths, folders (including subfolders), globs or URLs of {kind}; one per entry."
    return Field(title="Paths", description=description)


class Files(_Input):
    """Every file is an item; run() gets a list of paths."""

    model_config = ConfigDict(title="Files")

    files: Paths = _paths("files")
    partition_format: str | None = Field(default=None, title="Partition format")
    """For partition keys: pattern for the end of a path, such as {user}/{day:yyyy/MM/dd}/*.wav."""

    def dataset(self) -> Dataset:
        """Return the files as a dataset."""
        return FileDataset(**self._fields())


class _Table(_Input):
    """Fields of every kind of table."""

    keep_columns: list[str] = Field(default=[], title="Keep columns", json_schema_extra={"position": _LAST - 1})
    """The only columns that run() gets; one per entry. Empty: all."""
    drop_columns: list[str] = Field(default=[], title="Drop columns", json_schema_extra={"position": _LAST - 1})
    """Columns that run() does not get; one per entry. Set either this field or Keep columns, not both."""

    def dataset(self) -> Dataset:
        """Return the rows as a dataset."""
        fields = self._fields()
        fields["keep_columns"] = fields["keep_columns"] or None
        return TabularDataset(**fields, format=self.key().removesuffix("_files"))


class SqlQuery(_Table):
    """Every row that a query returns is an item; run() gets a DataFrame."""

    model_config = ConfigDict(title="SQL query")

    sql_query: str = Field(min_length=1, title="Query")
    """One SELECT statement. It is run once for each run."""
    uri: str = Field(min_length=1, title="Database")
    """postgresql://USER@HOST:PORT/DATABASE or sqlite:///FILE; for secrets {{ prefect.blocks.secret.NAME }}."""

    def dataset(self) -> Dataset:
        """Return the rows as a dataset."""
        fields = self.model_dump(exclude={"sql_query"})
        return SqlDataset.model_validate({**fields, "keep_columns": self.keep_columns or None, "query": self.sql_query})


class _Text(_Table):
    """Fields of text files."""

    encoding: str = Field(default="utf-8", min_length=1, title="Encoding", json_schema_extra={"position": _LAST - 1})
    """Any encoding that Python supports, such as utf-8 or latin-1."""
    compression: Literal["infer", Codec, "none"] = Field(
        default="infer", title="Compression", json_schema_extra={"position": _LAST - 1}
    )
    """infer: from the extension .gz, .bz2, .xz or .zst."""


class DelimitedFiles(_Text):
    """Every record is an item; run() gets a DataFrame, as pandas.read_csv reads it."""

    model_config = ConfigDict(title="Delimited text")

    delimited_files: Paths = _paths("CSV and similar files")
    delimiter: str = Field(default=",", pattern=r"^(.|\\t)$", title="Delimiter")
    r"""Field separator; one character, \t for a tab."""
    header: bool = Field(default=True, title="Header")
    """The first record of each file names the columns."""
    quote: str = Field(default='"', pattern="^(.|none)$", title="Quote")
    """Quote character; or none to read quotes as data."""
    double_quote: bool = Field(default=True, title="Doubled quotes")
    """Two quotes in a quoted field stand for one."""
    escape: Character | None = Field(default=None, title="Escape")
    """Escape character, such as a backslash."""
    decimal: Character = Field(default=".", title="Decimal point")
    """One character."""
    column_types: dict[str, ColumnType] = Field(default={}, title="Column types")
    """A JSON object, such as {"id": "string"}: string, int64, Int64, float64 or boolean, as pandas names them."""
    na_values: list[str] = Field(default=[], title="Missing values")
    """Strings that stand for a missing value, in addition to those of pandas; one per entry."""
    keep_default_na: bool = Field(default=True, title="Default missing values")
    """Off: NA, null, empty fields and so on are strings; only the strings above stand for a missing value."""


class JsonLinesFiles(_Text):
    """Every line, a JSON object, is an item; run() gets a DataFrame."""

    model_config = ConfigDict(title="JSON lines")

    json_lines_files: Paths = _paths("files with one JSON object per line")


class DeltaTable(_Table):
    """Every row is an item; run() gets a DataFrame. A run reads one version of the table to its end."""

    model_config = ConfigDict(title="Delta table")

    delta_files: Annotated[Paths, Field(max_length=1)] = _paths("the Delta table")
    version: int | None = Field(default=None, ge=0, title="Version")
    """Empty: the newest version when the run is planned."""


class IcebergTable(_Table):
    """Every row is an item; run() gets a DataFrame. A run reads one snapshot of the table to its end."""

    model_config = ConfigDict(title="Iceberg table")

    iceberg_files: Annotated[list[Annotated[str, Field(pattern=TABLE_NAME)]], Field(min_length=1, max_length=1)] = Field(
        title="Name", description="CATALOG.NAMESPACE.TABLE, with a catalog of pyiceberg's configuration."
    )
    version: Annotated[str, Field(pattern="^[0-9]+$", coerce_numbers_to_str=True)] | None = Field(
        default=None, title="Snapshot"
    )
    """Empty: the current snapshot when the run is planned."""  # a string, since browsers round such large numbers

    def _fields(self) -> dict[str, Any]:
        """Return the fields of the dataset; the name is not a path."""
        return {**self.model_dump(exclude={"iceberg_files"}), "paths": self.iceberg_files}


def _without_options(name: str, known: TableFormat) -> type[_Table]:
    """Return the form of a table format without options."""
    about = f"Every row is an item; run() gets a DataFrame. {known.about}".rstrip()
    fields: Any = {f"{name}_files": (Paths, _paths(f"{known.title} files"))}
    return create_model(f"{name.title()}Files", __base__=_Table, __doc__=about, __cls_kwargs__={"title": known.title}, **fields)


_TABLES: tuple[type[_Table], ...] = (DelimitedFiles, JsonLinesFiles, DeltaTable, IcebergTable)
_WITH_OPTIONS = {table.key().removesuffix("_files"): table for table in _TABLES}
_KINDS: dict[str, type[_Input]] = {
    "files": Files,
    **{f"{name}_files": _WITH_OPTIONS.get(name) or _without_options(name, known) for name, known in TABLE_FORMATS.items()},
    "sql_query": SqlQuery,
}
if TYPE_CHECKING:
    Input = _Input
else:
    Input = Union[tuple(_KINDS.values())]  # noqa: UP007  of the classes in the registry


class SideInput(FormModel):
    """A file or folder that every process can reach."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, title="Side input")

    name: str = Field(pattern=_IDENTIFIER, title="Name")
    """Arguments refer to it as {side_inputs.NAME}."""
    path: str = Field(min_length=1, title="Path")
    """Path or URL."""


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
    return construct(kind, fields, lambda path, message: f"{'.'.join([where, *map(str, path)])}: {message}")


def _load_block(target: Any) -> Any:
    """Return a compute target; a reference to a saved block (``{"$ref": …}``) is resolved."""
    if not isinstance(target, Mapping) or "$ref" not in target:
        return target
    block = Block.load_from_ref(target["$ref"], _sync=True)  # type: ignore[call-arg]  # async_dispatch adds _sync
    if not isinstance(block, DaskComputeTarget):
        raise ValueError(f"config.compute_target is a {type(block).__name__}; expected a {DaskComputeTarget.__name__}")
    return block.as_compute_target()
