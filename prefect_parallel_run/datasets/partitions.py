"""Reads and writes tables in hive folders (``store=1/brand=a/part-0.parquet``).

A key's value is encoded in its folder's name, so that no value can leave the folder or collide with another. Files that we
write also store their values in the file metadata, which preserves types, nulls and very long strings.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prefect_parallel_run._atomic import atomic_folder, wrap_disk_errors
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.storage.folders import ListedFile

_NULL = "__HIVE_DEFAULT_PARTITION__"
_NOTE = b"prefect_parallel_run.partition"
_LONGEST_FOLDER = 200  #: bytes of an encoded value; a longer one is replaced by its hash
_BUFFER = 128 << 20  #: bytes of rows that are buffered before they are written

IN_ROWS = "in rows"  #: type of a key whose column the reader of the format returns already

Scalar = str | int | float | bool | None


class ColumnTypesDifferError(ValueError):
    """The types of a column in two files have no common type without loss."""


class KeyValue(NamedTuple):
    """A partition key of a file and its value."""

    key: str
    value: Scalar
    type: str  #: text, int, float, bool, timestamp (its value is ISO 8601), or IN_ROWS


def values_in_path(path: str) -> list[tuple[str, str | None]]:
    """Return keys and values of the hive folders directly above a file, outermost first.

    >>> values_in_path("/data/store=1/brand=a%2Fb/x.parquet")
    [('store', '1'), ('brand', 'a/b')]
    """
    pairs: list[tuple[str, str | None]] = []
    for segment in reversed(path.split("/")[:-1]):
        key, equals, value = segment.partition("=")
        if not equals or not key:
            break
        pairs.append((unquote(key), None if value == _NULL else unquote(value)))
    return pairs[::-1]


def folder_keys(listing: Iterable[ListedFile]) -> list[str]:
    """Return the keys of the hive folders of the first file in *listing*."""
    first = next(iter(listing), None)
    return [] if first is None else [key for key, _ in values_in_path(first.path)]


def keyed_files(listing: Iterable[ListedFile]) -> Iterator[tuple[ListedFile, list[KeyValue]]]:
    """Yield every file of *listing* with the keys of its hive folders; raises InputError when files have different keys."""
    names = folder_keys(listing)
    values_by_key: dict[str, set[str | None]] = {name: set() for name in names}
    for file in listing if names else ():
        for key, value in _values(file, names):
            values_by_key[key].add(value)
    all_values = {name: sorted(values, key=str) for name, values in values_by_key.items()}
    for file in listing:
        yield file, [typed(key, value, all_values[key]) for key, value in _values(file, names)]


def _values(file: ListedFile, names: list[str]) -> list[tuple[str, str | None]]:
    values = values_in_path(file.path)
    if [key for key, _ in values] != names:
        keys = [key for key, _ in values]
        raise InputError(file.path, f"is in folders with the keys {keys}, but other files in folders with {names}")
    return values


def stored_values(metadata: Any) -> list[KeyValue] | None:
    """Return keys and values from the metadata of a Parquet file that we wrote; None for other files."""
    note = (metadata or {}).get(_NOTE)
    return None if note is None else [KeyValue(*entry) for entry in json.loads(note)]


def typed(key: str, value: str | None, all_values: Sequence[str | None]) -> KeyValue:
    """Return a value from a folder's name; an integer when all values of its key are plain integers.

    >>> typed("store", "7", ["7", "12"]), typed("zip", "7", ["7", "012"])
    (KeyValue(key='store', value=7, type='int'), KeyValue(key='zip', value='7', type='text'))
    """
    are_integers = all(other is None or _is_integer(other) for other in all_values)
    if are_integers and any(other is not None for other in all_values):
        return KeyValue(key, None if value is None else int(value), "int")
    return KeyValue(key, value, "text")


def _is_integer(text: str) -> bool:
    return len(text) < 19 and text.lstrip("-").isdigit() and text.isascii() and str(int(text)) == text


def folder_name(key: str, value: Scalar) -> str:
    """Return the folder name that encodes a value.

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
    """Write rows to hive folders below *target*, all or nothing; rows of one combination keep their order.

    Args:
        tables: The rows as a pandas frame, which provides the keys, and as an Arrow table, which is written.
        keys: Columns to partition by, outermost folder first; the files do not contain them.
        target: A folder that does not exist, or is empty.

    Raises:
        InputError: A key is not a column, or the keys are all columns.
        ColumnTypesDifferError: The types of a column in two tables have no common type without loss.
        OutputError: *target* cannot be written, or is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(str(target), "already exists; pass a folder that is new or empty")
    with wrap_disk_errors(target), atomic_folder(target, token=uuid.uuid4().hex) as folder:
        writer = _Writer(folder, keys)
        for frame, table in tables:
            writer.add(frame, table)
        writer.finish()


class _Writer:
    """Buffers rows by combination and writes them as additional files in its folder when the buffer is full."""

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self._folder, self._keys = folder, list(keys)
        self._buffer: dict[tuple[KeyValue, ...], list[pa.Table]] = {}
        self._bytes = 0
        self._written: list[tuple[Path, pa.Schema]] = []
        self._schema: pa.Schema | None = None

    def add(self, frame: pd.DataFrame, table: pa.Table) -> None:
        missing = [key for key in self._keys if key not in frame.columns]
        if missing:
            columns = [str(column) for column in frame.columns]
            raise InputError(", ".join(missing), f"is not a column to partition by; the columns are {columns}")
        data = table.drop_columns(self._keys)
        if not data.num_columns:  # a Parquet file without columns has no rows
            raise InputError(", ".join(self._keys), "are all columns of the table; expected a column beside the partition keys")
        self._schema = data.schema if self._schema is None else _unified(self._schema, data.schema)
        try:
            groups = list(frame[self._keys].reset_index(drop=True).groupby(self._keys, sort=False, dropna=False))
        except TypeError as error:
            raise InputError(
                ", ".join(self._keys), f"cannot be used to partition: {error}; expected columns of scalar values"
            ) from error
        for raw, rows in groups:
            values = raw if isinstance(raw, tuple) else (raw,)
            combination = tuple(key_value(key, value) for key, value in zip(self._keys, values, strict=True))
            part = data.take(pa.array(rows.index))
            self._buffer.setdefault(combination, []).append(part)
            self._bytes += part.nbytes
        if self._bytes > _BUFFER:
            self._flush()

    def finish(self) -> None:
        """Write the buffer, and rewrite the files that were written before a column's type was widened."""
        self._flush()
        for path, schema in self._written:
            if self._schema is not None and not schema.equals(self._schema):
                note = pq.read_metadata(path).metadata[_NOTE]
                self._write(path, [pq.ParquetFile(path).read()], note)

    def _flush(self) -> None:
        for combination, tables in self._buffer.items():
            folder = self._folder.joinpath(*(folder_name(pair.key, pair.value) for pair in combination))
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"part-{len(self._written):06d}.parquet"
            self._write(path, tables, json.dumps([list(pair) for pair in combination]).encode())
            self._written.append((path, self._schema))
        self._buffer, self._bytes = {}, 0

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


def key_value(key: str, value: Any) -> KeyValue:
    """Return a value of a column in a form that JSON can represent."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):  # noqa: PLR0124  NaN
        return KeyValue(key, None, "text")
    if hasattr(value, "isoformat"):
        return KeyValue(key, value.isoformat(), "timestamp")
    value = value.item() if hasattr(value, "item") else value
    kinds: dict[type, str] = {bool: "bool", int: "int", float: "float"}
    kind = kinds.get(type(value), "text")
    return KeyValue(key, str(value) if kind == "text" else value, kind)
