"""Tables in hive folders (``store=1/brand=a/part-0.parquet``): what the folders say, and how such folders are written.

A key's value is encoded in its folder's name, so that no value can leave the folder or be taken for another. Files that we
write also carry their values in their own metadata: types, nulls and very long texts come back as they were.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.storage.folders import Listed

_NULL = "__HIVE_DEFAULT_PARTITION__"
_NOTE = b"prefect_parallel_run.partition"
_LONGEST_FOLDER = 200  #: bytes of an encoded value; a longer one goes by its hash
_HELD = 128 << 20  #: bytes of rows held back before they are written

Scalar = str | int | float | bool | None


class ColumnTypesDifferError(ValueError):
    """A column has types in two files that no type holds without loss."""


class KeyValue(NamedTuple):
    """A partition key of a file and its value."""

    key: str
    value: Scalar
    type: str  #: text, int, float, bool, timestamp (its value is ISO 8601)


def values_in_path(path: str) -> list[tuple[str, str | None]]:
    """Return keys and values of the hive folders right above a file, outermost first.

    >>> values_in_path("/data/store=1/brand=a%2Fb/x.parquet")
    [('store', '1'), ('brand', 'a/b')]
    """
    found: list[tuple[str, str | None]] = []
    for segment in reversed(path.split("/")[:-1]):
        key, equals, value = segment.partition("=")
        if not equals or not key:
            break
        found.append((unquote(key), None if value == _NULL else unquote(value)))
    return found[::-1]


def folder_keys(listing: Iterable[Listed]) -> list[str]:
    """Return the keys of the hive folders that the files of *listing* lie in, as the first file has them."""
    first = next(iter(listing), None)
    return [] if first is None else [key for key, _ in values_in_path(first.path)]


def keyed_files(listing: Iterable[Listed]) -> Iterator[tuple[Listed, list[KeyValue]]]:
    """Yield every file of *listing* with what its hive folders say; all files have the same keys, or the input is refused."""
    names = folder_keys(listing)
    seen: dict[str, set[str | None]] = {name: set() for name in names}
    for file in listing if names else ():
        for key, value in _values(file, names):
            seen[key].add(value)
    every = {name: sorted(values, key=str) for name, values in seen.items()}
    for file in listing:
        yield file, [typed(key, value, every[key]) for key, value in _values(file, names)]


def _values(file: Listed, names: list[str]) -> list[tuple[str, str | None]]:
    values = values_in_path(file.path)
    if [key for key, _ in values] != names:
        raise InputError(file.path, f"lies in folders of the keys {[key for key, _ in values]}, other files in {names}")
    return values


def noted_values(metadata: Any) -> list[KeyValue] | None:
    """Return keys and values as a Parquet file that we wrote says itself; None for others."""
    note = (metadata or {}).get(_NOTE)
    return None if note is None else [KeyValue(*entry) for entry in json.loads(note)]


def typed(key: str, value: str | None, all_values: Sequence[str | None]) -> KeyValue:
    """Return a value of a folder's name; a number when all values of its key are plain whole numbers.

    >>> typed("store", "7", ["7", "12"]), typed("zip", "7", ["7", "012"])
    (KeyValue(key='store', value=7, type='int'), KeyValue(key='zip', value='7', type='text'))
    """
    whole = all(one is None or _is_whole(one) for one in all_values)
    if whole and any(one is not None for one in all_values):
        return KeyValue(key, None if value is None else int(value), "int")
    return KeyValue(key, value, "text")


def _is_whole(text: str) -> bool:
    return len(text) < 19 and text.lstrip("-").isdigit() and text.isascii() and str(int(text)) == text


def folder_name(key: str, value: Scalar) -> str:
    """Return the folder that stands for a value.

    >>> folder_name("brand", "a/b"), folder_name("brand", ".."), folder_name("brand", None)
    ('brand=a%2Fb', 'brand=%2E%2E', 'brand=__HIVE_DEFAULT_PARTITION__')
    """
    name = quote(key, safe="").replace(".", "%2E")
    if value is None:
        return f"{name}={_NULL}"
    text = quote(str(value), safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if len(text) > _LONGEST_FOLDER or text == _NULL:
        text = "~" + hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}={text}"


def write_partitions(tables: Iterator[tuple[pd.DataFrame, pa.Table]], keys: Sequence[str], target: Path) -> None:
    """Write rows to hive folders below *target*, whole or not at all; rows of one combination keep their order.

    Args:
        tables: The rows, as pandas has them, whose keys are taken, and as Arrow has them, which is written.
        keys: Columns to partition by, outermost folder first; they are left out of the files.
        target: A folder that is not there yet, or empty.

    Raises:
        InputError: A key is no column.
        ColumnTypesDifferError: A column has types in two tables that no type holds without loss.
        OutputError: *target* cannot be written, or has something in it.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(str(target), "is there already; pass a folder that is new or empty")
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.mkdir(parents=True)
        writer = _Writer(beside, keys)
        for frame, table in tables:
            writer.add(frame, table)
        writer.finish()
        if target.exists():
            target.rmdir()
        beside.replace(target)
    except OSError as error:
        raise OutputError(str(target), f"cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


class _Writer:
    """Gathers rows by combination and writes them as further files of its folder when they become many."""

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self._folder, self._keys = folder, list(keys)
        self._held: dict[tuple[KeyValue, ...], list[pa.Table]] = {}
        self._bytes = 0
        self._written: list[tuple[Path, pa.Schema]] = []
        self._schema: pa.Schema | None = None

    def add(self, frame: pd.DataFrame, table: pa.Table) -> None:
        missing = [key for key in self._keys if key not in frame.columns]
        if missing:
            raise InputError(", ".join(missing), f"is no column to partition by; there are {[str(c) for c in frame.columns]}")
        rest = table.drop_columns(self._keys)
        self._schema = rest.schema if self._schema is None else _unified(self._schema, rest.schema)
        try:
            groups = list(frame[self._keys].reset_index(drop=True).groupby(self._keys, sort=False, dropna=False))
        except TypeError as error:
            raise InputError(
                ", ".join(self._keys), f"cannot be partitioned by: {error}; expected columns of plain values"
            ) from error
        for raw, rows in groups:
            values = raw if isinstance(raw, tuple) else (raw,)
            combination = tuple(_key_value(key, value) for key, value in zip(self._keys, values, strict=True))
            part = rest.take(pa.array(rows.index))
            self._held.setdefault(combination, []).append(part)
            self._bytes += part.nbytes
        if self._bytes > _HELD:
            self._flush()

    def finish(self) -> None:
        """Write the rest, and write again the files that were written before a column's type was widened."""
        self._flush()
        for path, schema in self._written:
            if self._schema is not None and not schema.equals(self._schema):
                note = pq.read_metadata(path).metadata[_NOTE]
                self._write(path, [pq.ParquetFile(path).read()], note)

    def _flush(self) -> None:
        for combination, tables in self._held.items():
            folder = self._folder.joinpath(*(folder_name(one.key, one.value) for one in combination))
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"part-{len(self._written):06d}.parquet"
            self._write(path, tables, json.dumps([list(one) for one in combination]).encode())
            self._written.append((path, self._schema))
        self._held, self._bytes = {}, 0

    def _write(self, path: Path, tables: list[pa.Table], note: bytes) -> None:
        schema = self._schema or tables[0].schema
        try:
            table = pa.concat_tables([schema.empty_table(), *tables], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ColumnTypesDifferError("; ".join(map(str, error.args))) from error
        pq.write_table(table.replace_schema_metadata({**(schema.metadata or {}), _NOTE: note}), path)


def _unified(first: pa.Schema, second: pa.Schema) -> pa.Schema:
    if first.equals(second):
        return first
    try:
        return pa.unify_schemas([first, second], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ColumnTypesDifferError("; ".join(map(str, error.args))) from error


def _key_value(key: str, value: Any) -> KeyValue:
    """Return a value of a column as plain JSON can hold it."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):  # noqa: PLR0124  NaN
        return KeyValue(key, None, "text")
    if hasattr(value, "isoformat"):
        return KeyValue(key, value.isoformat(), "timestamp")
    value = value.item() if hasattr(value, "item") else value
    kinds: dict[type, str] = {bool: "bool", int: "int", float: "float"}
    kind = kinds.get(type(value), "text")
    return KeyValue(key, str(value) if kind == "text" else value, kind)
