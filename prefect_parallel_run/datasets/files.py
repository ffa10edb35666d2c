"""FileDataset: every file is an item."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from prefect_parallel_run.datasets.base import Dataset, PathLike, given_paths, ignore_warning, unknown_keys
from prefect_parallel_run.datasets.partition_format import PartitionFormat
from prefect_parallel_run.errors import InputError
from prefect_parallel_run.models import PlannedBatch
from prefect_parallel_run.storage.folders import ListedFile
from prefect_parallel_run.storage.listing import Listing

_encode = json.JSONEncoder(separators=(",", ":")).encode


class FileDataset(Dataset):
    """Files; ``run()`` gets a list of their absolute paths."""

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
            paths: Files, folders (with all files below them), globs.
            partition_format: Keys in the last segments of each path, for ``partition_keys``: ``{user}/{season}/{genre}.wav``,
                ``{day:yyyy/MM/dd}``, ``*`` for anything within a segment.
            allow_empty: Accept an input without files.
        """
        return cls(paths=given_paths(paths), partition_format=partition_format, allow_empty=allow_empty)

    @property
    def kind(self) -> Literal["file", "tabular"]:
        """Return "file"."""
        return "file"

    def cuts(
        self,
        size: int,
        listing: Listing | None = None,
        warn: Callable[[str], None] = ignore_warning,  # noqa: ARG002  file contents are not read
    ) -> Iterator[PlannedBatch]:
        """Yield mini-batches of *size* files."""
        files = iter(listing or self.listing())
        while chunk := list(islice(files, size)):
            yield self._cut(chunk, {})

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
        groups: dict[tuple[str, ...], list[ListedFile]] = {}
        for file in listing or self.listing():
            values = compiled.values(file.path)
            if values is None:
                raise InputError(file.path, f"does not match partition_format {self.partition_format}")
            groups.setdefault(tuple(values[key] for key in keys), []).append(file)
        for combination, files in groups.items():
            yield self._cut(files, {"partition_key_value": dict(zip(keys, combination, strict=True))})

    def _cut(self, files: list[ListedFile], extra: dict[str, object]) -> PlannedBatch:
        paths, sizes, versions = zip(*files, strict=True)
        root = _shared_root(paths[0], paths[-1])
        names = [path[len(root) :] for path in paths]
        work = {"input": self.name, "kind": "files", "root": root, "names": names, "sizes": sizes, "versions": versions}
        return PlannedBatch(len(files), sum(sizes), _encode({**work, **extra}))


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
