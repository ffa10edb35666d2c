"""TabularDataset: every row is an item. formats/ has the ways to write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.child.table_types import GIVEN
from prefect_parallel_run.child.text import UnreadableText, not_encoded
from prefect_parallel_run.datasets.base import Dataset, PathLike, absolute, given_paths, ignore_warning, unknown_keys
from prefect_parallel_run.datasets.formats.arrow import Arrow
from prefect_parallel_run.datasets.formats.base import Format
from prefect_parallel_run.datasets.formats.delimited import Delimited, UnknownColumnError
from prefect_parallel_run.datasets.formats.json_lines import JsonLines
from prefect_parallel_run.datasets.formats.orc import Orc
from prefect_parallel_run.datasets.formats.parquet import Parquet
from prefect_parallel_run.datasets.formats.text import Compression, Storage, checked_encoding
from prefect_parallel_run.datasets.input_warnings import InputWarnings
from prefect_parallel_run.datasets.partitions import (
    ColumnTypesDifferError,
    KeyValue,
    Scalar,
    folder_keys,
    keyed_files,
    write_partitions,
)
from prefect_parallel_run.datasets.record_ends import UnfinishedRecordError
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.storage.listing import Listing

_MODULES = {"parquet": ("pyarrow.parquet",), "orc": ("pyarrow.orc",)}
_WHOLE = 1 << 62  #: bytes: a mini-batch size that cuts nothing
_PARTITIONING_BYTES = 32 << 20  #: of source, read at a time while a table is partitioned
_encode = json.JSONEncoder(separators=(",", ":")).encode


class TabularDataset(Dataset):
    """Table files; ``run()`` gets a pandas DataFrame with the file's own columns and an index from 0."""

    format: Literal["parquet", "arrow", "orc", "delimited", "json_lines"] = Field(description="How the files are written.")
    delimiter: str = Field(default=",", description="Between the fields of delimited text.")
    quote: str = Field(default='"', description="Around fields of delimited text that need it; empty: none.")
    escape: str | None = Field(default=None, description="In front of a character of delimited text that then means itself.")
    double_quote: bool = Field(default=True, description="Two quotes in a quoted field stand for one.")
    header: bool = Field(default=True, description="The first record of delimited text names the columns.")
    decimal: str = Field(default=".", description="The decimal point of delimited text.")
    column_types: dict[str, str] | None = Field(default=None, description="Types of columns of delimited text, by name.")
    na_values: list[str] | None = Field(default=None, description="Texts that stand for no value, beside those of pandas.")
    keep_default_na: bool = Field(default=True, description="What pandas takes for no value, such as NA, is none; else a text.")
    encoding: str = Field(default="utf-8", description="Of delimited text and JSON lines.")
    compression: Compression = Field(default="infer", description="Of text files; infer: by the ending .gz, .bz2, .xz or .zst.")

    @field_validator("delimiter", "quote", "escape", "decimal")
    @classmethod
    def _is_one_byte(cls, value: str | None, info: Any) -> str | None:
        if value is None or (info.field_name == "quote" and not value):
            return value
        if len(value) != 1 or not value.isascii() or value in "\r\n\0":
            raise ValueError(f"{info.field_name} is {value!r}; accepted: one ASCII character that ends no line")
        if info.field_name != "delimiter" and value in " \t":
            raise ValueError(f"{info.field_name} is {value!r}; accepted: one ASCII character that is no blank")
        return value

    @field_validator("column_types")
    @classmethod
    def _are_types(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name, kind in (value or {}).items():
            if kind not in GIVEN:
                raise ValueError(f"column_types[{name!r}] is {kind!r}; accepted: {', '.join(GIVEN)}")
        return value or None

    @field_validator("na_values")
    @classmethod
    def _are_some(cls, value: list[str] | None) -> list[str] | None:
        return value or None

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return checked_encoding(value)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for field in ("column_types", "na_values"):
            if getattr(self, field) is not None and self.format != "delimited":
                raise ValueError(f"{field} is {getattr(self, field)!r}; accepted: None, since the files are no delimited text")
        if not self.keep_default_na and self.format != "delimited":
            raise ValueError("keep_default_na is False; accepted: True, since the files are no delimited text")
        taken: dict[str, str] = {}
        for field in ("delimiter", "quote", "escape", "decimal"):
            value = getattr(self, field)
            if value and taken.setdefault(value, field) != field:
                raise ValueError(f"{field} is {value!r}, and {taken[value]} is the same; accepted: a character of its own")
        return self

    @classmethod
    def from_parquet_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of Parquet files."""
        return cls(paths=given_paths(paths), format="parquet", allow_empty=allow_empty)

    @classmethod
    def from_arrow_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of Arrow IPC files, which Feather files (version 2) are too, and IPC streams."""
        return cls(paths=given_paths(paths), format="arrow", allow_empty=allow_empty)

    @classmethod
    def from_orc_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of ORC files."""
        return cls(paths=given_paths(paths), format="orc", allow_empty=allow_empty)

    @classmethod
    def from_delimited_files(
        cls,
        paths: PathLike | Iterable[PathLike],
        *,
        delimiter: str = ",",
        quote: str = '"',
        escape: str | None = None,
        double_quote: bool = True,
        header: bool = True,
        decimal: str = ".",
        column_types: dict[str, str] | None = None,
        na_values: list[str] | None = None,
        keep_default_na: bool = True,
        encoding: str = "utf-8",
        compression: Compression = "infer",
        allow_empty: bool = False,
    ) -> TabularDataset:
        r"""Return a dataset of the records of CSV-like files, read as ``pandas.read_csv`` reads them.

        Args:
            paths: Files, folders or globs.
            delimiter: Between fields; one ASCII character.
            quote: Around fields that contain delimiters or line ends; doubled inside. Empty: none.
            escape: In front of a character that then means itself, such as a backslash; None: none.
            double_quote: False when two quotes in a quoted field are no way to write one.
            header: True when the first record of each file names the columns; else they are numbered from 0.
            decimal: The decimal point.
            column_types: Types of columns, by name (without a header by number): ``string``, ``int64``, ``Int64``,
                ``float64`` or ``boolean``, as in ``dtype`` of pandas. A value that does not fit fails its mini-batch.
            na_values: Texts that stand for a missing value, beside those that pandas takes for one.
            keep_default_na: False: only *na_values* stand for a missing value; ``NA``, ``null`` or an empty field is a string.
            encoding: Any encoding of text that Python knows; a byte order mark in UTF-8 or UTF-16 is left out.
            compression: ``gzip``, ``bz2``, ``xz``, ``zstd``, None, or ``infer``: by the ending ``.gz``, ``.bz2``, ``.xz`` or
                ``.zst``.
            allow_empty: No record at all is no error.
        """
        return cls(
            paths=given_paths(paths),
            format="delimited",
            delimiter=delimiter,
            quote=quote,
            escape=escape,
            double_quote=double_quote,
            header=header,
            decimal=decimal,
            column_types=column_types,
            na_values=na_values,
            keep_default_na=keep_default_na,
            encoding=encoding,
            compression=compression,
            allow_empty=allow_empty,
        )

    @classmethod
    def from_json_lines_files(
        cls,
        paths: PathLike | Iterable[PathLike],
        *,
        encoding: str = "utf-8",
        compression: Compression = "infer",
        allow_empty: bool = False,
    ) -> TabularDataset:
        """Return a dataset of files with one JSON object per line; encoding and compression as for delimited files."""
        where = given_paths(paths)
        return cls(paths=where, format="json_lines", encoding=encoding, compression=compression, allow_empty=allow_empty)

    @property
    def modules(self) -> tuple[str, ...]:
        """Return what a process that reads the rows will import."""
        return ("pandas", "pyarrow.compute", *_MODULES.get(self.format, ()))

    @property
    def kind(self) -> Literal["file", "tabular"]:
        """Return "tabular"."""
        return "tabular"

    def cuts(
        self, size: int, listing: Listing | None = None, tell: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield mini-batches of about *size* bytes of source; none spans two files. Keys of hive folders become columns."""
        for cut, _ in self._keyed_cuts(size, listing or self.listing(), tell):
            yield cut

    def partition_cuts(
        self, keys: Sequence[str], store: Path, listing: Listing | None = None, tell: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield the rows of one combination of *keys* after the other.

        Tables in hive folders are taken as they are; other tables are written anew below *store*, once.
        """
        listing = listing or self.listing()
        folders = folder_keys(listing)
        if not folders:
            yield from self._partitioned_below(keys, store, listing, tell).partition_cuts(keys, store)
        elif set(keys) <= set(folders):
            yield from self._grouped(keys, listing, tell)
        else:
            raise unknown_keys(self.name, keys, folders, "the folders")

    def partition_by(self, keys: Sequence[str], target: PathLike) -> TabularDataset:
        """Write the rows to Parquet files in hive folders below *target*, and return them as a dataset.

        Args:
            keys: Columns, outermost folder first.
            target: A folder that is not there yet, or empty; it is complete or absent.

        Raises:
            InputError: A key is no column, a file cannot be read, or a column is of two types that do not go together.
            OutputError: *target* cannot be written, or has something in it.
        """
        return self._partition(keys, target, ignore_warning)

    def _partition(self, keys: Sequence[str], target: PathLike, tell: Callable[[str], None]) -> TabularDataset:
        place = absolute(target)
        if is_remote(place):
            raise OutputError(place, "partitions are written to a folder of this machine; pass a path")
        try:
            write_partitions(self._tables(tell), keys, Path(place))
        except ColumnTypesDifferError as error:
            message = f"its files have different types in one column, and a partitioned table cannot: {error}"
            raise InputError(", ".join(self.paths), message) from error
        except pa.ArrowException as error:
            raise InputError(", ".join(self.paths), f"a column cannot be written as Parquet: {error}") from error
        return TabularDataset(paths=[place], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _tables(self, tell: Callable[[str], None]) -> Iterator[tuple[pd.DataFrame, pa.Table]]:
        """Yield the rows as run() would get them, and as Arrow has them."""
        reader = Reader()
        for cut in self.cuts(_PARTITIONING_BYTES, tell=tell):
            try:
                work = json.loads(cut.work)
                frame = reader.read(work).value
            except BadRecord as error:
                raise InputError(", ".join(self.paths), str(error)) from error
            yield frame, reader.arrow(work, frame)

    def _partitioned_below(
        self, keys: Sequence[str], store: Path, listing: Listing, tell: Callable[[str], None]
    ) -> TabularDataset:
        """Return the same rows partitioned, in a folder whose name follows from them: made once, then found again."""
        total = hashlib.sha256(_encode([self.model_dump(mode="json"), list(keys)]).encode())
        for file in listing:
            total.update(_encode([file.path, file.size, file.version]).encode())
        place = store / total.hexdigest()[:32]
        if not place.is_dir():
            try:
                return self._partition(keys, place, tell)
            except OutputError:
                if not place.is_dir():  # else another run has made the same folder meanwhile
                    raise
        return TabularDataset(paths=[str(place)], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _grouped(self, keys: Sequence[str], listing: Listing, tell: Callable[[str], None]) -> Iterator[PlannedBatch]:
        groups: dict[tuple[Scalar, ...], list[PlannedBatch]] = {}
        for cut, values in self._keyed_cuts(_WHOLE, listing, tell):
            by_key = {one.key: one.value for one in values}
            groups.setdefault(tuple(by_key[key] for key in keys), []).append(cut)
        for combination, cuts in groups.items():
            rows = sum(cut.items for cut in cuts)
            about: dict[str, Any] = {"input": self.name, "kind": "tables", "rows": rows}
            head = _encode({**about, "partition_key_value": dict(zip(keys, combination, strict=True))})
            work = f'{head[:-1]},"tables":[{",".join(cut.work for cut in cuts)}]}}'
            yield PlannedBatch(rows, sum(cut.size for cut in cuts), work)

    def _keyed_cuts(
        self, size: int, listing: Listing, tell: Callable[[str], None]
    ) -> Iterator[tuple[PlannedBatch, list[KeyValue]]]:
        has_header = self.format == "delimited" and self.header
        written, doubts = self._format(), InputWarnings(tell, may_lack_header=has_header)
        for file, keys in keyed_files(listing):
            if file.size == 0:
                continue  # written by nobody, or a marker such as _SUCCESS
            about: dict[str, Any] = {
                "input": self.name,
                "kind": self.format,
                "path": file.path,
                "size": file.size,
                "version": file.version,
            }
            try:
                found = written.cut(file, size)
                values = (found.keys or keys) if keys else []
                about |= {**({"keys": [list(one) for one in values]} if values else {}), **found.about}
                doubts.of_file(file.path, found.doubts)
                doubts.of_columns(file.path, found.columns)
                if found.names is not None:
                    from_folders = {one.key for one in values}  # such columns come last, whatever the file has
                    doubts.of_names(file.path, [name for name in found.names if name not in from_folders])
                for rows, source_bytes, where in found.pieces:
                    yield PlannedBatch(rows, source_bytes, _encode({**about, **where})), values
            except (UnfinishedRecordError, UnknownColumnError) as error:
                raise InputError(file.path, str(error)) from None
            except UnicodeError as error:
                raise InputError(file.path, not_encoded(self.encoding, error)) from error
            except (OSError, pa.ArrowException, pd.errors.ParserError, UnreadableText) as error:
                raise InputError(file.path, f"cannot be read as {self.format}: {error}") from error
        doubts.end()

    def _format(self) -> Format:
        """Return how the files are written."""
        storage = Storage(self.encoding, self.compression, is_always_utf8=self.format == "json_lines")
        formats: dict[str, Callable[[], Format]] = {
            "parquet": Parquet,
            "arrow": Arrow,
            "orc": Orc,
            "json_lines": lambda: JsonLines(storage=storage),
            "delimited": lambda: Delimited(
                delimiter=self.delimiter,
                quote=self.quote,
                escape=self.escape,
                double_quote=self.double_quote,
                decimal=self.decimal,
                na_values=self.na_values,
                keep_default_na=self.keep_default_na,
                column_types=self.column_types or {},
                header=self.header,
                storage=storage,
            ),
        }
        return formats[self.format]()
