"""TabularDataset: every row is an item. child/table_formats.py lists the formats of the files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import pyarrow as pa
from pydantic import ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from prefect_parallel_run._threads import CheckCancelled, never_cancelled
from prefect_parallel_run.child.delimited import GIVEN
from prefect_parallel_run.child.input_columns import FIRST_ROW, ROW_VALUES
from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.child.table_formats import TABLE_FORMATS
from prefect_parallel_run.child.text import UnreadableText, not_encoded
from prefect_parallel_run.datasets.base import Dataset, PathLike, given_paths, ignore_warning, unknown_keys
from prefect_parallel_run.datasets.columns import ColumnSelection, check_input_columns
from prefect_parallel_run.datasets.formats import FilePlan, create_planner
from prefect_parallel_run.datasets.partitions import IN_ROWS, ColumnTypesDifferError, KeyValue, Scalar, write_partitions
from prefect_parallel_run.datasets.schema import InputWarnings
from prefect_parallel_run.datasets.text import Compression, UnfinishedRecordError, checked_encoding
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.listing import Listing
from prefect_parallel_run.storage.paths import absolute_location

#: Fields that other formats refuse instead of ignoring.
_REFUSED_ELSEWHERE = ("column_types", "na_values", "keep_default_na", "version")
TABLE_NAME = r"^[^./]+(\.[^./]+){2,}$"  #: Pattern for the name of an Iceberg table.
_WHOLE = 1 << 62  #: bytes: a mini-batch size larger than any file
_PARTITIONING_BYTES = 32 << 20  #: bytes of source per read while a table is partitioned
_UNREADABLE = (OSError, pa.ArrowException, pd.errors.ParserError, UnicodeError, UnfinishedRecordError, UnreadableText)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _is_none(value: object) -> bool:
    return value is None


class TabularDataset(Dataset):
    """Table files; ``run()`` gets a pandas DataFrame with the file's own columns and an index from 0."""

    model_config = ConfigDict(serialize_by_alias=True)
    kind: ClassVar[Literal["file", "tabular"]] = "tabular"
    format: str = Field(description="Format of the files.", json_schema_extra={"enum": [*TABLE_FORMATS]})
    delimiter: str = Field(default=",", description="Character between the fields of delimited text.")
    quote: str = Field(default='"', description="Quote character of delimited text; empty: none.")
    escape: str | None = Field(default=None, description="Escape character of delimited text.")
    double_quote: bool = Field(default=True, description="Two quotes in a quoted field mean one quote.")
    header: bool = Field(default=True, description="The first record of delimited text names the columns.")
    decimal: str = Field(default=".", description="The decimal point of delimited text.")
    column_types: dict[str, str] | None = Field(default=None, description="Types of columns of delimited text, by name.")
    na_values: list[str] | None = Field(default=None, description="Strings that mean a missing value, besides pandas' own.")
    keep_default_na: bool = Field(default=True, description="Parse pandas' own missing values, such as NA, as missing.")
    encoding: str = Field(default="utf-8", description="Encoding of delimited text and JSON lines.")
    compression: Compression = Field(default="infer", description="Compression of text; infer: by .gz, .bz2, .xz or .zst.")
    version: int | None = Field(
        default=None,
        ge=0,
        exclude_if=_is_none,
        description="Version of a Delta table, or snapshot of an Iceberg table; none: the newest when the plan is made.",
    )
    schema_id: int | None = Field(
        default=None, ge=0, exclude_if=_is_none, description="Schema of an Iceberg table; set when the plan is made."
    )
    #: Methods have the aliases as names. Unset fields are not serialized: the dataset's hashes are those of earlier versions.
    kept_columns: list[str] | None = Field(
        default=None, alias="keep_columns", exclude_if=_is_none, description="The only columns that are read."
    )
    dropped_columns: list[str] | None = Field(
        default=None, alias="drop_columns", exclude_if=_is_none, description="Columns that are not read."
    )

    @field_validator("format")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in TABLE_FORMATS:
            raise ValueError(f"format: expected one of {', '.join(TABLE_FORMATS)}, got {value!r}")
        return value

    @field_validator("delimiter", "quote", "escape", "decimal")
    @classmethod
    def _is_one_byte(cls, value: str | None, info: Any) -> str | None:
        if value is None or (info.field_name == "quote" and not value):
            return value
        if len(value) != 1 or not value.isascii() or value in "\r\n\0":
            raise ValueError(f"{info.field_name}: expected one ASCII character that is not a line end, got {value!r}")
        if info.field_name != "delimiter" and value in " \t":
            raise ValueError(f"{info.field_name}: expected one ASCII character that is not a blank, got {value!r}")
        return value

    @field_validator("column_types")
    @classmethod
    def _are_types(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name, kind in (value or {}).items():
            if kind not in GIVEN:
                raise ValueError(f"column_types[{name!r}]: expected one of {', '.join(GIVEN)}, got {kind!r}")
        return value or None

    @field_validator("na_values")
    @classmethod
    def _none_if_empty(cls, value: list[str] | None) -> list[str] | None:
        return value or None

    @field_validator("kept_columns", "dropped_columns")
    @classmethod
    def _are_different(cls, value: list[str] | None, info: Any) -> list[str] | None:
        field = str(cls.model_fields[info.field_name].alias)
        repeated = next((name for number, name in enumerate(value or ()) if name in (value or ())[:number]), None)
        if repeated is not None:
            raise ValueError(f"{field}: expected different columns, got {repeated!r} more than once")
        if value == [] and field == "keep_columns":
            raise ValueError(f"{field}: expected at least one column, or None for all, got []")
        return value or None

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, value: str) -> str:
        return checked_encoding(value)

    @model_validator(mode="after")
    def _are_consistent(self) -> Self:
        for field in _REFUSED_ELSEWHERE:
            value, default = getattr(self, field), type(self).model_fields[field].default
            if value != default and field not in TABLE_FORMATS[self.format].options:
                titles = " or ".join(known.title.lower() for known in TABLE_FORMATS.values() if field in known.options)
                raise ValueError(f"{field}: expected {default}, since the files are not {titles}, got {value!r}")
        if "version" in TABLE_FORMATS[self.format].options and len(self.paths) != 1:
            raise ValueError(f"paths: expected one {TABLE_FORMATS[self.format].title}, got {len(self.paths)} paths")
        if TABLE_FORMATS[self.format].is_named and not re.fullmatch(TABLE_NAME, self.paths[0]):
            raise ValueError(f"paths: expected the name of a table as CATALOG.NAMESPACE.TABLE, got {self.paths[0]!r}")
        if self.kept_columns is not None and self.dropped_columns is not None:
            raise ValueError("set either keep_columns or drop_columns, not both")
        fields: dict[str, str] = {}
        for field in ("delimiter", "quote", "escape", "decimal"):
            value = getattr(self, field)
            if value and fields.setdefault(value, field) != field:
                raise ValueError(f"{field}: expected another character than {fields[value]}, got {value!r} for both")
        return self

    @classmethod
    def from_parquet_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of Parquet files."""
        return cls(paths=given_paths(paths), format="parquet", allow_empty=allow_empty)

    @classmethod
    def from_arrow_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of Arrow IPC files (Feather version 2 included) and IPC streams."""
        return cls(paths=given_paths(paths), format="arrow", allow_empty=allow_empty)

    @classmethod
    def from_orc_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of ORC files."""
        return cls(paths=given_paths(paths), format="orc", allow_empty=allow_empty)

    @classmethod
    def from_delta_table(cls, path: PathLike, version: int | None = None, *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of a Delta table; needs the extra ``delta``.

        Args:
            path: Folder or URL of the table.
            version: Version of the table; None: the newest when the plan is made. A run reads this version to its end.
            allow_empty: Accept a table without rows.
        """
        return cls(paths=given_paths(path), format="delta", version=version, allow_empty=allow_empty)

    @classmethod
    def from_iceberg_table(cls, table: str, snapshot_id: int | None = None, *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of an Iceberg table; needs the extra ``iceberg``.

        Args:
            table: ``CATALOG.NAMESPACE.TABLE``; the catalog is one of pyiceberg's configuration.
            snapshot_id: Snapshot of the table; None: the current one when the plan is made. A run reads it to its end.
            allow_empty: Accept a table without rows.
        """
        return cls(paths=[table], format="iceberg", version=snapshot_id, allow_empty=allow_empty)

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
        r"""Return a dataset of the records of CSV-like files, parsed like ``pandas.read_csv``.

        Args:
            paths: Files, folders or globs.
            delimiter: One ASCII character between fields.
            quote: Quote character around fields that contain delimiters or line ends; doubled inside. Empty: none.
            escape: Escape character, such as a backslash; None: none.
            double_quote: True when two quotes in a quoted field mean one quote.
            header: True when the first record of each file names the columns; else they are numbered from 0.
            decimal: The decimal point.
            column_types: Types of columns, by name (without a header by number): ``string``, ``int64``, ``Int64``,
                ``float64`` or ``boolean``, as in ``dtype`` of pandas. A value of another type fails its mini-batch.
            na_values: Strings that mean a missing value, besides those of pandas.
            keep_default_na: False: only *na_values* mean a missing value; ``NA``, ``null`` or an empty field is a string.
            encoding: Any text encoding that Python knows; a byte order mark in UTF-8 or UTF-16 is skipped.
            compression: ``gzip``, ``bz2``, ``xz``, ``zstd``, None, or ``infer``: by the file ending ``.gz``, ``.bz2``, ``.xz``
                or ``.zst``.
            allow_empty: Accept an input without records.
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
        absolute_paths = given_paths(paths)
        return cls(
            paths=absolute_paths, format="json_lines", encoding=encoding, compression=compression, allow_empty=allow_empty
        )

    @classmethod
    def from_sql_query(cls, query: str, uri: str, *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows that a query returns, in that order; it is run once for each run of a step.

        Args:
            query: One SELECT statement; write ORDER BY to get the same order again.
            uri: ``postgresql://USER@HOST:PORT/DATABASE``, ``sqlite:///FILE``, or ``{{ prefect.blocks.secret.NAME }}`` for a
                block that holds the URI. Such a reference may also stand for the password; other passwords are refused.
            allow_empty: Accept a query that returns no rows.
        """
        from prefect_parallel_run.datasets.sql import SqlDataset  # noqa: PLC0415  imports this module

        return SqlDataset(query=query, uri=uri, allow_empty=allow_empty)

    def keep_columns(self, columns: str | Sequence[str]) -> Self:
        """Return a dataset with only these columns; nothing else is read from its files.

        Keys of hive folders are columns too. The columns keep the order that they have in each file. A column that a file lacks
        is an error of planning.

        Args:
            columns: A name, or a list of different names; for delimited text without a header, column numbers such as ``"0"``.

        Raises:
            ValueError: *columns* is empty, has a name twice, or has one that was left out before.
        """
        return self._selecting(self.selection.keeping(_names(columns)))

    def drop_columns(self, columns: str | Sequence[str]) -> Self:
        """Return a dataset without these columns, which are not read from its files; *columns* as in ``keep_columns``.

        Raises:
            ValueError: *columns* has a name twice, has one that was left out before, or all that are kept.
        """
        return self._selecting(self.selection.dropping(_names(columns)))

    @property
    def selection(self) -> ColumnSelection:
        """Return which columns are read."""
        return ColumnSelection(self.kept_columns, self.dropped_columns)

    def _selecting(self, selection: ColumnSelection) -> Self:
        fields = self.model_dump(exclude={"kept_columns", "dropped_columns"})
        return type(self).model_validate({**fields, **selection.fields()})

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules that a process needs to read the rows."""
        return ("pandas", "pyarrow.compute", *TABLE_FORMATS[self.format].modules)

    def listing(self, check_cancelled: CheckCancelled = never_cancelled) -> Listing:
        """Return the files that contain the rows; raises InputError if a table cannot be read."""
        return create_planner(self).listing(check_cancelled)

    def frozen(self) -> Self:
        """Return a copy with a version, if the format has versions; raises InputError if the table cannot be read."""
        return self if self.version is not None else self.model_copy(update=create_planner(self).newest())

    def cuts(
        self, size: int, listing: Listing | None = None, warn: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield mini-batches of about *size* bytes of source, each from one file. Keys of hive folders become columns."""
        for batch, _ in self._keyed_cuts(size, listing or self.listing(), warn):
            yield batch

    def partition_cuts(
        self, keys: Sequence[str], store: Path, listing: Listing | None = None, warn: Callable[[str], None] = ignore_warning
    ) -> Iterator[PlannedBatch]:
        """Yield the rows of one combination of *keys* after the other.

        Tables in hive folders are used directly; of other tables a partitioned copy is written below *store*, once.
        """
        self.selection.check_keys(self.name, keys)
        listing = listing or self.listing()
        planner = create_planner(self)
        folders = planner.keys(listing)
        if not folders:
            if located := [name for name in self._input_columns if name in ROW_VALUES]:
                reason = f"got {located[0]!r}; partition_keys read the rows from a partitioned copy, which has another"
                raise InputError(str(self.name), f"append_row_input_columns: expected columns of the table, {reason}")
            copy = self._partitioned_below(keys, store, listing, warn)
            copy = copy.with_input_columns(self._input_columns)
            yield from copy._grouped(keys, copy.listing(), ignore_warning)  # noqa: SLF001  of the same class
        elif set(keys) <= set(folders):
            yield from self._grouped(keys, listing, warn)
        else:
            raise unknown_keys(self.name, keys, folders, planner.key_origin)

    def partition_by(self, keys: Sequence[str], target: PathLike) -> TabularDataset:
        """Write the rows to Parquet files in hive folders below *target*, and return them as a dataset.

        Args:
            keys: Columns, outermost folder first.
            target: A folder that does not exist, or is empty; written atomically.

        Raises:
            InputError: A key is not a column, a file cannot be read, or a column has incompatible types in two files.
            OutputError: *target* cannot be written, or is not empty.
        """
        self.selection.check_keys(self.name, keys)
        return self._partition(keys, target, ignore_warning)

    def _partition(self, keys: Sequence[str], target: PathLike, warn: Callable[[str], None]) -> TabularDataset:
        path = absolute_location(target)
        if is_remote(path):
            raise OutputError(path, "partitions can only be written to a local folder; pass a path")
        try:
            write_partitions(self._tables(warn), keys, Path(path))
        except ColumnTypesDifferError as error:
            message = f"cannot be partitioned: its files have different types in one column: {error}"
            raise InputError(", ".join(self.paths), message) from error
        except pa.ArrowException as error:
            raise InputError(", ".join(self.paths), f"a column cannot be written as Parquet: {error}") from error
        return TabularDataset(paths=[path], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _tables(self, warn: Callable[[str], None]) -> Iterator[tuple[pd.DataFrame, pa.Table]]:
        """Yield the rows as the frame that run() would get, and as an Arrow table."""
        reader = Reader()
        for batch in self.cuts(_PARTITIONING_BYTES, warn=warn):
            try:
                work = json.loads(batch.work)
                frame = reader.read(work)
            except BadRecord as error:
                raise InputError(", ".join(self.paths), str(error)) from error
            yield frame, reader.arrow(work, frame)

    def _partitioned_below(
        self, keys: Sequence[str], store: Path, listing: Listing, warn: Callable[[str], None]
    ) -> TabularDataset:
        """Return a partitioned copy of the rows, in a folder named after a hash of its inputs, so that it is written once."""
        total = hashlib.sha256(_encode([self.model_dump(mode="json"), list(keys)]).encode())
        for file in listing:
            total.update(_encode([file.path, file.size, file.version]).encode())
        path = store / total.hexdigest()[:32]
        if not path.is_dir():
            try:
                return self._partition(keys, path, warn)
            except OutputError:
                if not path.is_dir():  # else another run has written the same folder meanwhile
                    raise
        return TabularDataset(paths=[str(path)], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _grouped(self, keys: Sequence[str], listing: Listing, warn: Callable[[str], None]) -> Iterator[PlannedBatch]:
        groups: dict[tuple[Scalar, ...], list[PlannedBatch]] = {}
        for batch, values in self._keyed_cuts(_WHOLE, listing, warn):
            by_key = {pair.key: pair.value for pair in values}
            groups.setdefault(tuple(by_key[key] for key in keys), []).append(batch)
        for combination, batches in groups.items():
            rows = sum(batch.items for batch in batches)
            shared = {"input": self.name, "kind": "tables", "rows": rows}
            head = _encode({**shared, "partition_key_value": dict(zip(keys, combination, strict=True))})
            work = f'{head[:-1]},"tables":[{",".join(batch.work for batch in batches)}]}}'
            yield PlannedBatch(rows, sum(batch.size for batch in batches), work)

    def _keyed_cuts(
        self, size: int, listing: Listing, warn: Callable[[str], None]
    ) -> Iterator[tuple[PlannedBatch, list[KeyValue]]]:
        """Yield the mini-batches, each with the keys of its file's folders."""
        has_header = "header" in TABLE_FORMATS[self.format].options and self.header
        planner, warnings = create_planner(self), InputWarnings(warn, may_lack_header=has_header)
        for file, folder_values in planner.files(listing):
            if file.size == 0:
                continue  # an empty part, or a marker such as _SUCCESS
            try:
                plan = planner.plan(file, size)
                keys = (plan.keys or folder_values) if folder_values else []
                self._warn_of(warnings, file, plan, keys)
                work = self._work(file, keys) | plan.work
                first_row = 0
                for rows, source_bytes, piece in plan.pieces:
                    if first_row == 0:  # a file without rows may lack columns
                        self._check_columns(file, plan, keys)
                    location = {FIRST_ROW: first_row} if "row" in self._input_columns else {}
                    yield PlannedBatch(rows, source_bytes, _encode({**work, **piece, **location})), keys
                    first_row += rows
            except _UNREADABLE as error:
                raise InputError(file.path, self._problem(error)) from error
        warnings.finish()

    def _shown(self, file: ListedFile) -> str:
        """Return what errors and warnings about the columns of a file name; the path of a copy means nothing to users."""
        return self.origin if self.reads_once else file.path

    def _check_columns(self, file: ListedFile, plan: FilePlan, keys: list[KeyValue]) -> None:
        """Raise InputError when the file lacks a column that the dataset or the configuration names."""
        from_folders = [pair.key for pair in keys]  # these replace columns of the same name
        names = [*(name for name in plan.names or () if name not in from_folders), *from_folders]
        self.selection.check_names(self._shown(file), names)
        check_input_columns(self._shown(file), self.selection.kept(names), self._input_columns)

    def _warn_of(self, warnings: InputWarnings, file: ListedFile, plan: FilePlan, keys: list[KeyValue]) -> None:
        shown = self._shown(file)
        warnings.add_file(shown, plan.warnings)
        warnings.add_columns(shown, plan.columns)
        if plan.names is not None:
            from_folders = {pair.key for pair in keys}  # these columns always come last
            names = self.selection.kept(plan.names)
            warnings.add_names(shown, [name for name in names if name not in from_folders])

    def _work(self, file: ListedFile, keys: list[KeyValue]) -> dict[str, Any]:
        path, size, version = file
        work = {"input": self.name, "kind": self.format, "path": path, "size": size, "version": version}
        kept = set(self.selection.kept([pair.key for pair in keys if pair.type != IN_ROWS]))
        return {**work, "keys": [list(pair) for pair in keys if pair.key in kept]} if kept else work

    def _problem(self, error: Exception) -> str:
        if isinstance(error, UnfinishedRecordError):
            return str(error)
        if isinstance(error, UnicodeError):
            return not_encoded(self.encoding, error)
        return f"cannot be read as {self.format}: {error}"


def _names(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)
