"""What the ready-made flow is given, as a person fills it in: inputs, side inputs, configuration; and what becomes of it.

Every kind of input has a key of its own (``files``, ``parquet_files``, …), so that what was filled in is one kind and no other,
for Prefect's forms as well as for us. Prefect hands the values on as they came, JSON; here they become what a step takes.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from prefect_parallel_run.compute.blocks import DaskComputeTarget
from prefect_parallel_run.config.form_schema import FormModel
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.quoting import shown
from prefect_parallel_run.config.where import ComputeTarget
from prefect_parallel_run.datasets.base import Dataset, given_paths
from prefect_parallel_run.datasets.files import FileDataset
from prefect_parallel_run.datasets.tabular import TabularDataset

_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"
_LAST = 10  #: position of the fields that all inputs have; the others have none and come first
_TAB, _NO_QUOTES = r"\t", "none"  #: how a form names what cannot be typed into it

_Model = TypeVar("_Model", bound=BaseModel)
Paths = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Character = Annotated[str, Field(min_length=1, max_length=1)]


class ShownAs(NamedTuple):
    """Beside a type that Python code may pass: the one that the form shows, and that JSON is held against."""

    kind: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of that type."""
        return handler.generate_schema(self.kind)


class _Input(FormModel):
    """What every kind of input has."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str | None = Field(
        default=None,
        pattern=_IDENTIFIER,
        title="Name",
        description="Of the input, as the script sees it; letters, digits and underscores. Empty: input_0, input_1, …",
        json_schema_extra={"position": _LAST},
    )
    allow_empty: bool = Field(
        default=False,
        title="Allow empty",
        description="An input without items is no error.",
        json_schema_extra={"position": _LAST},
    )

    @abstractmethod
    def dataset(self) -> Dataset:
        """Return the input as a step takes it."""


def _paths(what: str) -> Any:
    description = f"Paths, folders (with all below them), globs or URLs of {what}; one per entry."
    return Field(title="Paths", description=description)


class Files(_Input):
    """Every file is an item; run() gets a list of paths."""

    model_config = ConfigDict(title="Files")

    files: Paths = _paths("files")
    partition_format: str | None = Field(
        default=None,
        title="Partition format",
        description="For partition keys: what the end of a path says, such as {user}/{day:yyyy/MM/dd}/*.wav.",
    )

    def dataset(self) -> Dataset:
        """Return the files."""
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
        """Return the rows."""
        return self._table(self.parquet_files, format="parquet")


class _Text(_Table):
    """What text files have."""

    encoding: str = Field(
        default="utf-8",
        min_length=1,
        title="Encoding",
        description="Any encoding that Python knows, such as utf-8 or latin-1.",
        json_schema_extra={"position": _LAST - 1},
    )
    compression: Literal["infer", "gzip", "bz2", "xz", "zstd", "none"] = Field(
        default="infer",
        title="Compression",
        description="infer: by the ending .gz, .bz2, .xz or .zst.",
        json_schema_extra={"position": _LAST - 1},
    )

    @property
    def _stored(self) -> dict[str, Any]:
        return {"encoding": self.encoding, "compression": None if self.compression == "none" else self.compression}


class DelimitedFiles(_Text):
    """Every record is an item; run() gets a DataFrame, as pandas.read_csv reads it."""

    model_config = ConfigDict(title="Delimited text")

    delimited_files: Paths = _paths("CSV and the like")
    delimiter: str = Field(
        default=",", pattern=r"^(.|\\t)$", title="Delimiter", description=r"Between fields; one character, \t for a tab."
    )
    header: bool = Field(default=True, title="Header", description="The first record of each file names the columns.")
    quote: str = Field(
        default='"',
        pattern="^(.|none)$",
        title="Quote",
        description="Around fields that need it; one character, or none where quotes mean nothing.",
    )
    double_quote: bool = Field(default=True, title="Doubled quotes", description="Two quotes in a quoted field stand for one.")
    escape: Character | None = Field(
        default=None, title="Escape", description="In front of a character that then means itself, such as a backslash."
    )
    decimal: Character = Field(default=".", title="Decimal point", description="One character.")
    column_types: dict[str, Literal["string", "int64", "Int64", "float64", "boolean"]] = Field(
        default={},
        title="Types of columns",
        description='A JSON object, such as {"id": "string"}: string, int64, Int64, float64 or boolean, as pandas names them.',
    )
    na_values: list[str] = Field(
        default=[],
        title="Missing values",
        description="Texts that stand for a missing value, beside those of pandas; one per entry.",
    )
    keep_default_na: bool = Field(
        default=True,
        title="Usual missing values",
        description="Off: NA, null, an empty field and the like are strings; only the texts above stand for a missing value.",
    )

    def dataset(self) -> Dataset:
        """Return the records."""
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
        """Return the lines."""
        return self._table(self.json_lines_files, format="json_lines", **self._stored)


class ArrowFiles(_Table):
    """Every row is an item; run() gets a DataFrame. Arrow IPC files and streams, and Feather (version 2)."""

    model_config = ConfigDict(title="Arrow")

    arrow_files: Paths = _paths("Arrow files")

    def dataset(self) -> Dataset:
        """Return the rows."""
        return self._table(self.arrow_files, format="arrow")


class OrcFiles(_Table):
    """Every row is an item; run() gets a DataFrame."""

    model_config = ConfigDict(title="ORC")

    orc_files: Paths = _paths("ORC files")

    def dataset(self) -> Dataset:
        """Return the rows."""
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

    # No object is one but a reference, which Prefect's server accepts beside it, under the title: that is why it has none of
    # its own. The block's own schema has nothing that a reference lacks, so the server would refuse that for being both.
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
    """A ParallelRunConfig as the form shows it: a saved block is one more choice of a compute target."""

    compute_target: Annotated[str | ComputeTarget, ShownAs(_Target)] = ParallelRunConfig.model_fields["compute_target"]  # type: ignore[assignment]  # the same field


def configuration(given: Any) -> ParallelRunConfig:
    """Return the configuration of a form, of a YAML file, or as it is.

    Raises:
        ValueError: A value is wrong; the error names every such field.
    """
    if isinstance(given, ParallelRunConfig):
        return given
    if isinstance(given, str | os.PathLike):
        return ParallelRunConfig.load_yaml(given)
    fields = {**_mapping("config", given, "fields, or the path of a YAML file")}
    fields["compute_target"] = _without_reference(fields.get("compute_target", "local"))
    return _made(ParallelRunConfig, "config", fields)


def dataset(place: int, given: Any) -> Any:
    """Return input number *place* as a step takes it; what a step takes anyway is left as it is.

    Raises:
        ValueError: It is no kind of input, or one of its values is wrong.
    """
    if isinstance(given, _Input):
        return given.dataset()
    if not isinstance(given, Mapping):
        return given
    where = f"inputs[{place}]"
    kind = next((kind for key, kind in _KINDS.items() if key in given), None)
    if kind is None:
        raise ValueError(
            f"{where} has the fields {sorted(given)}; accepted: one of {', '.join(_KINDS)}, and options of its kind"
        )
    return _made(kind, where, given).dataset()


def side_inputs_by_name(given: Any) -> dict[str, Any]:
    """Return side inputs by name: a mapping as it is, a list of names and paths as a mapping.

    Raises:
        ValueError: One is no name and path, or a name comes twice.
    """
    if isinstance(given, Mapping):
        return {**given}
    found: dict[str, Any] = {}
    for place, value in enumerate(given):
        where = f"side_inputs[{place}]"
        one = value if isinstance(value, SideInput) else _made(SideInput, where, _mapping(where, value, "a name and a path"))
        if one.name in found:
            raise ValueError(f"{where} has the name {one.name!r}, which another one has; accepted: names that are different")
        found[one.name] = one.path
    return found


def _mapping(where: str, given: Any, words: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {shown(given)}; accepted: {words}")  # noqa: TRY004  a wrong value, like others
    return given


def _made(kind: type[_Model], where: str, fields: Mapping[str, Any]) -> _Model:
    """Return a model; values are in no error but those that its own validators put there, which leave out secrets."""
    try:
        return kind(**fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        said = [f"{'.'.join([where, *map(str, part['loc'])])}: {part['msg'].removeprefix('Value error, ')}" for part in wrong]
        raise ValueError("\n".join(said)) from None


def _without_reference(given: Any) -> Any:
    """Return a compute target; the block that a form refers to (``{"$ref": …}``) by its name."""
    if not isinstance(given, Mapping) or "$ref" not in given:
        return given
    block = Block.load_from_ref(given["$ref"], _sync=True)  # type: ignore[call-arg]  # async_dispatch takes it
    if not isinstance(block, DaskComputeTarget):
        raise ValueError(f"config.compute_target is a {type(block).__name__}; accepted: a {DaskComputeTarget.__name__}")  # noqa: TRY004  a wrong value, like others
    return block.as_compute_target()
