"""FileDataset: every file is an item; a partition_format extracts keys from its path."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from typing_extensions import Self

from prefect_parallel_run.child.input_columns import FILE_VALUES
from prefect_parallel_run.config.base import similar
from prefect_parallel_run.datasets.base import Dataset, PathLike, given_paths, ignore_warning, unknown_keys
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.storage.listing import Listing

_encode = json.JSONEncoder(separators=(",", ":")).encode
_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<open>\{\{)|(?P<close>\}\})|\{(?P<key>[^{}:]*)(:(?P<date>[^{}]*))?\}|(?P<star>\*)|(?P<other>.)"
)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATE_PART = re.compile(r"(?P<part>yyyy|MM|dd|HH|mm|ss)|(?P<escaped>.)")
_DATE_ORDER = ("yyyy", "MM", "dd", "HH", "mm", "ss")
_DIGITS = {"yyyy": 4}


class FileDataset(Dataset):
    """Files; ``run()`` gets a list of their absolute paths."""

    kind: ClassVar[Literal["file", "tabular"]] = "file"
    partition_format: str | None = Field(
        default=None, description="Keys in the last segments of a path, such as {user}/{day:yyyy/MM/dd}/*."
    )

    @field_validator("partition_format")
    @classmethod
    def _is_a_format(cls, value: str | None) -> str | None:
        if value is not None:
            PartitionFormat(value)
        return value

    @classmethod
    def from_files(
        cls, paths: PathLike | Iterable[PathLike], *, partition_format: str | None = None, allow_empty: bool = False
    ) -> FileDataset:
        """Return a dataset of the files that *paths* expand to.

        Args:
            paths: Files, folders (with all files below them), globs, URLs.
            partition_format: Keys in the last segments of each path, for ``partition_keys``: ``{user}/{season}/{genre}.wav``,
                ``{day:yyyy/MM/dd}``, ``*`` for anything within a segment.
            allow_empty: Accept an input without files.
        """
        return cls(paths=given_paths(paths), partition_format=partition_format, allow_empty=allow_empty)

    def cuts(
        self,
        size: int,
        listing: Listing | None = None,
        warn: Callable[[str], None] = ignore_warning,  # noqa: ARG002  file contents are not read
    ) -> Iterator[PlannedBatch]:
        """Yield mini-batches of *size* files."""
        paths: list[str] = []
        sizes: list[str] = []
        versions: list[str] = []
        for block in (listing or self.listing()).blocks():
            paths += block.paths
            sizes += block.sizes
            versions += block.versions
            whole = len(paths) - len(paths) % size
            for start in range(0, whole, size):
                stop = start + size
                yield self._cut(paths[start:stop], sizes[start:stop], versions[start:stop])
            del paths[:whole], sizes[:whole], versions[:whole]
        if paths:
            yield self._cut(paths, sizes, versions)

    def partition_cuts(
        self,
        keys: Sequence[str],
        store: Path,  # noqa: ARG002  files are not copied
        listing: Listing | None = None,
        warn: Callable[[str], None] = ignore_warning,  # noqa: ARG002  file contents are not read
    ) -> Iterator[PlannedBatch]:
        """Yield the files of one combination of *keys* after the other; holds all paths in memory."""
        if self.partition_format is None:
            raise InputError(str(self.name), f"has no partition_format, which partition_keys {list(keys)} need; pass one")
        compiled = PartitionFormat(self.partition_format)
        if not set(keys) <= set(compiled.keys):
            raise unknown_keys(self.name, keys, compiled.keys, "the keys in partition_format")
        groups: dict[tuple[str, ...], tuple[list[str], list[str], list[str]]] = {}
        for block in (listing or self.listing()).blocks():
            for path, size, version in zip(block.paths, block.sizes, block.versions, strict=True):
                values = compiled.values(path)
                if values is None:
                    raise InputError(path, f"does not match partition_format {self.partition_format}")
                paths, sizes, versions = groups.setdefault(tuple(values[key] for key in keys), ([], [], []))
                paths.append(path)
                sizes.append(size)
                versions.append(version)
        for combination, columns in groups.items():
            key_values = _encode(dict(zip(keys, combination, strict=True)))
            yield self._cut(*columns, f',"partition_key_value":{key_values}')

    def with_input_columns(self, columns: Sequence[str]) -> Self:
        """Return a copy; files have only a path and a name."""
        for column in columns:
            if column not in FILE_VALUES:
                reason = f"expected {' or '.join(FILE_VALUES)} for files, got {column!r}{similar(column, FILE_VALUES)}"
                raise InputError(str(self.name), f"append_row_input_columns: {reason}")
        return super().with_input_columns(columns)

    def _cut(self, paths: list[str], sizes: list[str], versions: list[str], extra: str = "") -> PlannedBatch:
        """Return the mini-batch of some files; *sizes*, *versions* and *extra* are JSON already."""
        root = _shared_root(paths[0], paths[-1])
        names = ",".join([encode_basestring_ascii(path[len(root) :]) for path in paths])
        head = f'"input":{_encode(self.name)},"kind":"files","root":{encode_basestring_ascii(root)}'
        work = f'{{{head},"names":[{names}],"sizes":[{",".join(sizes)}],"versions":[{",".join(versions)}]{extra}}}'
        return PlannedBatch(len(paths), sum(map(int, sizes)), work)


def _shared_root(first: str, last: str) -> str:
    """Return the common folder of two paths, with a trailing slash; all paths sorted between them share it too.

    >>> _shared_root("/a/b/c.png", "/a/b/d.png"), _shared_root("/a/b/c.png", "/a/bc/d.png")
    ('/a/b/', '/a/')
    """
    folder = first[: first.rindex("/") + 1]
    if last.startswith(folder):  # nearly always
        return folder
    shared = os.path.commonprefix((first, last))  # noqa: RUF071  the next line cuts it at a slash
    return shared[: shared.rindex("/") + 1]


class PartitionFormat:
    r"""A compiled partition_format, such as ``{user}/{season}/{date:yyyy/MM/dd}/*.wav``.

    ``{key}`` matches one path segment or a part of one, ``{key:yyyy/MM/dd/HH/mm/ss}`` a date (from the year to any precision,
    with any text between), ``*`` anything within a segment. ``{{``, ``}}`` and a backslash in front of any character match the
    character itself. The format is matched against the end of the path.

    >>> PartitionFormat("{user}/{day:yyyy/MM/dd}/*.wav").values("/data/ann/2024/01/31/x.wav")
    {'user': 'ann', 'day': '2024-01-31'}
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.keys: list[str] = []
        self._dates: dict[str, list[str]] = {}  # parts of each date key, in order
        pattern = "".join(self._compile(text))
        if not self.keys:
            raise ValueError(f"partition_format: expected a path with at least one {{key}}, got {text!r}")
        self._pattern = re.compile(pattern if text.startswith("/") else f"(?:^|/){pattern}", re.DOTALL)

    def values(self, path: str) -> dict[str, str] | None:
        """Return the value of every key, dates in ISO 8601; None when the end of *path* does not match."""
        for candidate in self._pattern.finditer(path):
            match = self._pattern.match(path, candidate.start())
            if match is not None and match.end() == len(path):
                return self._read(match)
        return None

    def _read(self, match: re.Match[str]) -> dict[str, str] | None:
        values = {}
        for number, key in enumerate(self.keys):
            if key in self._dates:
                date = _date({part: match[f"k{number}_{part}"] for part in self._dates[key]})
                if date is None:
                    return None
                values[key] = date
            else:
                values[key] = match[f"k{number}"]
        return values

    def _compile(self, text: str) -> Iterator[str]:
        for token in _TOKEN.finditer(text):
            kind = token.lastgroup
            if token["key"] is not None:
                yield self._key(token["key"], token["date"])
            elif kind == "star":
                yield "[^/]*"
            elif token["other"] in ("{", "}"):
                raise ValueError(
                    f"partition_format: unmatched {token['other']!r} in {text!r}; double it to match the character"
                )
            else:
                character = token["escaped"] or ("{" if token["open"] else "}" if token["close"] else token["other"])
                yield re.escape(character)
        yield r"\Z"

    def _key(self, key: str, date: str | None) -> str:
        if not _KEY.fullmatch(key) or key in self.keys:
            raise ValueError(f"partition_format: {key!r} in {self.text!r} is not a valid key, or is repeated")
        number = len(self.keys)
        self.keys.append(key)
        if date is None:
            return f"(?P<k{number}>[^/]+?)"
        parts: list[str] = []
        pattern = []
        for token in _DATE_PART.finditer(date):
            part = token["part"]
            if part is None:
                pattern.append(re.escape(token["escaped"]))
                continue
            parts.append(part)
            pattern.append(f"(?P<k{number}_{part}>[0-9]{{{_DIGITS.get(part, 2)}}})")
        if tuple(sorted(parts, key=_DATE_ORDER.index)) != _DATE_ORDER[: len(parts)] or not parts:
            raise ValueError(f"partition_format: a date needs yyyy, MM, dd, HH, mm, ss in this order, got {self.text!r}")
        self._dates[key] = parts
        return "".join(pattern)


def _date(parts: dict[str, str]) -> str | None:
    """Return a date in ISO 8601 with the precision of *parts*; None when the date does not exist."""
    numbers = [int(parts[part]) for part in _DATE_ORDER if part in parts]
    try:
        full = datetime(*numbers, *(1, 1, 1)[len(numbers) :], tzinfo=timezone.utc)  # type: ignore[arg-type, misc]  # year, month, day and so on
    except ValueError:
        return None
    formats = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
    return full.strftime(formats[len(numbers) - 1])
