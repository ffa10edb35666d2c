"""TabularDataset: every row is an item. Parquet is cut by rows, delimited text and JSON lines at record ends."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from prefect_parallel_run.child.reading import BadRecord, Reader
from prefect_parallel_run.datasets.base import Dataset, PathLike, given_paths, unknown_keys
from prefect_parallel_run.datasets.column_types import NULL, kinds_in_frame, kinds_in_lines, together
from prefect_parallel_run.datasets.listing import Listed, Listing
from prefect_parallel_run.datasets.partitions import KeyValue, Scalar, noted_values, typed, values_in_path, write_partitions
from prefect_parallel_run.datasets.record_ends import UnterminatedQuoteError, record_ends
from prefect_parallel_run.errors import InputError, OutputError
from prefect_parallel_run.records import Cut

_WHOLE = 1 << 62  #: bytes: a mini-batch size that cuts nothing
_PARTITIONING_BYTES = 32 << 20  #: of source, read at a time while a table is partitioned
_TYPING_BYTES = 16 << 20  #: of source, read at a time while types are decided
_encode = json.JSONEncoder(separators=(",", ":")).encode


class TabularDataset(Dataset):
    """Table files; ``run()`` gets a pandas DataFrame with the file's own columns and an index from 0."""

    format: Literal["parquet", "delimited", "json_lines"] = Field(description="How the files are written.")
    delimiter: str = Field(default=",", description="Between the fields of delimited text.")
    quote: str = Field(default='"', description="Around fields of delimited text that need it; empty: none.")
    header: bool = Field(default=True, description="The first record of delimited text names the columns.")

    @field_validator("delimiter", "quote")
    @classmethod
    def _is_one_byte(cls, value: str, info: Any) -> str:
        if len(value) != 1 and not (info.field_name == "quote" and not value):
            raise ValueError(f"{info.field_name} is {value!r}; accepted: one character")
        if not value.isascii() or value in "\r\n":
            raise ValueError(f"{info.field_name} is {value!r}; accepted: an ASCII character that ends no line")
        return value

    @classmethod
    def from_parquet_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of the rows of Parquet files."""
        return cls(paths=given_paths(paths), format="parquet", allow_empty=allow_empty)

    @classmethod
    def from_delimited_files(
        cls,
        paths: PathLike | Iterable[PathLike],
        *,
        delimiter: str = ",",
        quote: str = '"',
        header: bool = True,
        allow_empty: bool = False,
    ) -> TabularDataset:
        """Return a dataset of the records of CSV-like files in UTF-8.

        Args:
            paths: Files, folders or globs.
            delimiter: Between fields; one ASCII character.
            quote: Around fields that contain delimiters or line ends; doubled inside. Empty: none.
            header: True when the first record of each file names the columns; else they are numbered from 0.
            allow_empty: No record at all is no error.
        """
        return cls(
            paths=given_paths(paths),
            format="delimited",
            delimiter=delimiter,
            quote=quote,
            header=header,
            allow_empty=allow_empty,
        )

    @classmethod
    def from_json_lines_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> TabularDataset:
        """Return a dataset of files with one JSON object per line."""
        return cls(paths=given_paths(paths), format="json_lines", allow_empty=allow_empty)

    @property
    def kind(self) -> Literal["file", "tabular"]:
        """Return "tabular"."""
        return "tabular"

    def cuts(self, size: int, listing: Listing | None = None) -> Iterator[Cut]:
        """Yield mini-batches of about *size* bytes of source; none spans two files. Keys of hive folders become columns."""
        for cut, _ in self._keyed_cuts(size, listing or self.listing()):
            yield cut

    def partition_cuts(self, keys: Sequence[str], store: Path, listing: Listing | None = None) -> Iterator[Cut]:
        """Yield the rows of one combination of *keys* after the other.

        Tables in hive folders are taken as they are; other tables are written anew below *store*, once.
        """
        listing = listing or self.listing()
        folders = _folder_keys(listing)
        if not folders:
            yield from self._partitioned_below(keys, store, listing).partition_cuts(keys, store)
        elif set(keys) <= set(folders):
            yield from self._grouped(keys, listing)
        else:
            raise unknown_keys(self.name, keys, folders, "the folders")

    def partition_by(self, keys: Sequence[str], target: PathLike) -> TabularDataset:
        """Write the rows to Parquet files in hive folders below *target*, and return them as a dataset.

        Args:
            keys: Columns, outermost folder first.
            target: A folder that is not there yet, or empty; it is complete or absent.

        Raises:
            InputError: A key is no column, or a file cannot be read.
            OutputError: *target* cannot be written, or has something in it.
        """
        place = Path(target).absolute()
        write_partitions(self._frames(), keys, place)
        return TabularDataset(paths=[str(place)], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _frames(self) -> Iterator[pd.DataFrame]:
        reader = Reader()
        for cut in self.cuts(_PARTITIONING_BYTES):
            try:
                yield reader.read(json.loads(cut.work)).value
            except BadRecord as error:
                raise InputError(", ".join(self.paths), str(error)) from error

    def _partitioned_below(self, keys: Sequence[str], store: Path, listing: Listing) -> TabularDataset:
        """Return the same rows partitioned, in a folder whose name follows from them: made once, then found again."""
        total = hashlib.sha256(_encode([self.model_dump(mode="json"), list(keys)]).encode())
        for file in listing:
            total.update(_encode([file.path, file.size, file.version]).encode())
        place = store / total.hexdigest()[:32]
        if not place.is_dir():
            try:
                return self.partition_by(keys, place)
            except OutputError:
                if not place.is_dir():  # else another run has made the same folder meanwhile
                    raise
        return TabularDataset(paths=[str(place)], format="parquet", name=self.name, allow_empty=self.allow_empty)

    def _grouped(self, keys: Sequence[str], listing: Listing) -> Iterator[Cut]:
        groups: dict[tuple[Scalar, ...], list[Cut]] = {}
        for cut, values in self._keyed_cuts(_WHOLE, listing):
            by_key = {one.key: one.value for one in values}
            groups.setdefault(tuple(by_key[key] for key in keys), []).append(cut)
        for combination, cuts in groups.items():
            rows = sum(cut.items for cut in cuts)
            about = {"input": self.name, "kind": "tables", "rows": rows}
            head = _encode({**about, "partition_key_value": dict(zip(keys, combination, strict=True))})
            work = f'{head[:-1]},"tables":[{",".join(cut.work for cut in cuts)}]}}'
            yield Cut(rows, sum(cut.size for cut in cuts), work)

    def _keyed_cuts(self, size: int, listing: Listing) -> Iterator[tuple[Cut, list[KeyValue]]]:
        cut = {"parquet": self._cut_parquet, "delimited": self._cut_delimited, "json_lines": self._cut_lines}[self.format]
        for file, keys in self._keyed_files(listing):
            try:
                yield from cut(file, size, keys)
            except UnterminatedQuoteError:
                raise InputError(file.path, "ends inside a quoted field; a closing quote is missing") from None
            except (OSError, pa.ArrowException, pd.errors.ParserError, UnicodeDecodeError) as error:
                raise InputError(file.path, f"cannot be read as {self.format}: {error}") from error

    def _keyed_files(self, listing: Listing) -> Iterator[tuple[Listed, list[KeyValue]]]:
        """Yield every file with what its hive folders say."""
        names = _folder_keys(listing)
        seen: dict[str, set[str | None]] = {name: set() for name in names}
        for file in listing if names else ():
            for key, value in self._values(file, names):
                seen[key].add(value)
        every = {name: sorted(values, key=str) for name, values in seen.items()}
        for file in listing:
            yield file, [typed(key, value, every[key]) for key, value in self._values(file, names)]

    def _values(self, file: Listed, names: list[str]) -> list[tuple[str, str | None]]:
        values = values_in_path(file.path)
        if [key for key, _ in values] != names:
            raise InputError(file.path, f"lies in folders of the keys {[key for key, _ in values]}, other files in {names}")
        return values

    def _cut_parquet(self, file: Listed, size: int, keys: list[KeyValue]) -> Iterator[tuple[Cut, list[KeyValue]]]:
        """Cut inside large row groups; small ones go together."""
        with pq.ParquetFile(file.path) as source:
            metadata = source.metadata
        if keys:
            keys = noted_values(metadata.metadata) or keys
        for cut in self._parquet_cuts(file, size, metadata, keys):
            yield cut, keys

    def _parquet_cuts(self, file: Listed, size: int, metadata: pq.FileMetaData, keys: list[KeyValue]) -> Iterator[Cut]:
        groups: list[int] = []
        rows = held = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if groups and held + group.total_byte_size > size:
                yield self._parquet_cut(file, keys, groups, 0, rows, held)
                groups, rows, held = [], 0, 0
            if group.total_byte_size > size and group.num_rows > 1:
                pieces = min(-(-group.total_byte_size // size), group.num_rows)
                borders = [group.num_rows * piece // pieces for piece in range(pieces + 1)]
                for start, stop in pairwise(borders):
                    part = group.total_byte_size * (stop - start) // group.num_rows
                    yield self._parquet_cut(file, keys, [number], start, stop, part)
            elif group.num_rows:
                groups.append(number)
                rows, held = rows + group.num_rows, held + group.total_byte_size
        if groups:
            yield self._parquet_cut(file, keys, groups, 0, rows, held)

    def _parquet_cut(self, file: Listed, keys: list[KeyValue], groups: list[int], start: int, stop: int, size: int) -> Cut:
        where = {"row_groups": groups, "start": start, "stop": stop, "rows": stop - start}
        return Cut(stop - start, size, _encode({**self._about(file, "parquet", keys), **where}))

    def _cut_delimited(self, file: Listed, size: int, keys: list[KeyValue]) -> Iterator[tuple[Cut, list[KeyValue]]]:
        dialect = {"delimiter": self.delimiter, "quote": self.quote}
        about: dict[str, Any] = {**self._about(file, "delimited", keys), **dialect}
        ends = record_ends(Path(file.path), delimiter=self.delimiter.encode(), quote=self.quote.encode())
        spans = _Spans(ends)
        if self.header:
            head = spans.take_record()
            if head is None:
                return
            about["columns"] = self._columns(file, *head)
        about["types"] = self._delimited_types(file, about.get("columns"))
        for start, stop, rows, first in spans.cut(size):
            where = {"start": start, "stop": stop, "rows": rows, "first": first}
            yield Cut(rows, stop - start, _encode({**about, **where})), keys

    def _delimited_types(self, file: Listed, columns: list[str] | None) -> list[str]:
        """Return the type of every column as the whole file has it; records that cannot be read are left out."""
        ends = record_ends(Path(file.path), delimiter=self.delimiter.encode(), quote=self.quote.encode())
        spans = _Spans(ends)
        if self.header:
            spans.take_record()
        options: dict[str, Any] = {"quotechar": self.quote} if self.quote else {"quoting": 3}
        if columns is not None:
            options |= {"names": columns, "index_col": False}
        found: list[set[str]] = [set() for _ in columns or ()]
        with Path(file.path).open("rb") as source, warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # a record with too many fields is told when it is run
            for start, stop, _, _ in spans.cut(_TYPING_BYTES):
                source.seek(start)
                data = io.BytesIO(source.read(stop - start))
                frame = pd.read_csv(
                    data,
                    sep=self.delimiter,
                    header=None,
                    encoding="utf-8",
                    encoding_errors="replace",
                    low_memory=False,
                    on_bad_lines="skip",
                    **options,
                )
                for place, kind in enumerate(kinds_in_frame(frame)):
                    if place == len(found):
                        found.append(set())
                    found[place].add(kind)
        return [together(kinds) for kinds in found]

    def _columns(self, file: Listed, start: int, stop: int) -> list[str]:
        """Return the names in a header, as pandas gives them (a name that comes twice is numbered)."""
        with Path(file.path).open("rb") as source:
            source.seek(start)
            head = source.read(stop - start)
        quoting: dict[str, Any] = {"quotechar": self.quote} if self.quote else {"quoting": 3}
        frame = pd.read_csv(io.BytesIO(head), sep=self.delimiter, nrows=0, index_col=False, encoding="utf-8", **quoting)
        return [str(name) for name in frame.columns]

    def _cut_lines(self, file: Listed, size: int, keys: list[KeyValue]) -> Iterator[tuple[Cut, list[KeyValue]]]:
        about = self._about(file, "json_lines", keys)
        types = self._json_types(file)
        about |= {"columns": list(types), "types": list(types.values())}
        for start, stop, rows, first in _Spans(record_ends(Path(file.path), lone_returns=False)).cut(size):
            where = {"start": start, "stop": stop, "rows": rows, "first": first}
            yield Cut(rows, stop - start, _encode({**about, **where})), keys

    def _json_types(self, file: Listed) -> dict[str, str]:
        """Return the columns of the whole file, in the order in which they first come, with their types."""
        found: dict[str, set[str]] = {}
        is_first = True
        with Path(file.path).open("rb") as source:
            for start, stop, _, _ in _Spans(record_ends(Path(file.path), lone_returns=False)).cut(_TYPING_BYTES):
                source.seek(start)
                kinds = kinds_in_lines(source.read(stop - start))
                for name in {**found, **kinds}:
                    missing = {NULL} if (name not in found and not is_first) or name not in kinds else set()
                    found[name] = found.get(name, set()) | kinds.get(name, set()) | missing
                is_first = False
        return {name: together(kinds) for name, kinds in found.items()}

    def _about(self, file: Listed, kind: str, keys: list[KeyValue]) -> dict[str, Any]:
        about = {"input": self.name, "kind": kind, "path": file.path, "size": file.size, "version": file.version}
        return {**about, "keys": [list(one) for one in keys]} if keys else about


def _folder_keys(listing: Listing) -> list[str]:
    """Return the keys of the hive folders that the files lie in; every file has the same ones, or the input is refused."""
    first = next(iter(listing), None)
    return [] if first is None else [key for key, _ in values_in_path(first.path)]


class _Spans:
    """Record ends gathered into spans of bytes."""

    def __init__(self, ends: Iterator[Any]) -> None:
        self._ends = ends
        self._start = -1  # where the next span begins
        self._block: Any = None
        self._at = 0  # records of the block that are behind us

    def take_record(self) -> tuple[int, int] | None:
        """Return start and stop of the first record that is not blank, and begin behind it; None when there is none."""
        while self._load():
            filled = self._block.filled[self._at :].nonzero()[0]
            start = self._start
            if len(filled):
                index = self._at + int(filled[0])
                stop = int(self._block.offsets[index])
                self._at, self._start = index + 1, stop
                return start, stop
            self._at = len(self._block.offsets)
        return None

    def cut(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield start, stop, records and the number of the first record (from 1) of spans of about *size* bytes."""
        rows, first = 0, 1
        stop = None
        while self._load():
            offsets, filled = self._block.offsets, self._block.filled
            while self._at < len(offsets):
                start = self._start
                index = min(max(int(offsets.searchsorted(start + size)), self._at), len(offsets) - 1)
                rows += int(filled[self._at : index + 1].sum())
                stop = int(offsets[index])
                self._at = index + 1
                if stop - start >= size:
                    if rows:
                        yield start, stop, rows, first
                    self._start, first, rows = stop, first + rows, 0
        if rows and stop is not None:
            yield self._start, stop, rows, first

    def _load(self) -> bool:
        """Make sure that a record is at hand; False when there is none left."""
        while self._block is None or self._at >= len(self._block.offsets):
            self._block = next(self._ends, None)
            if self._block is None:
                return False
            self._at = 0
            if self._start < 0:
                self._start = self._block.start
        return True
