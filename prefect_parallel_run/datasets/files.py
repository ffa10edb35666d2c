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
from prefect_parallel_run.storage.folders import Listed
from prefect_parallel_run.storage.listing import Listing

_encode = json.JSONEncoder(separators=(",", ":")).encode


class FileDataset(Dataset):
    """Files; ``run()`` gets a list of their absolute paths."""

    partition_format: str | None = Field(
        default=None, description="What the end of a path says, such as {user}/{day:yyyy/MM/dd}/*."
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
        """Return a dataset of the files that *paths* stand for: files, folders (with all below them), globs.

        Args:
            paths: What is given above.
            partition_format: What the end of each path says, for ``partition_keys``: ``{user}/{season}/{genre}.wav``,
                ``{day:yyyy/MM/dd}``, ``*`` for anything within a segment.
            allow_empty: No file at all is no error.
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
        tell: Callable[[str], None] = ignore_warning,  # noqa: ARG002  files are not looked into
    ) -> Iterator[PlannedBatch]:
        """Yield mini-batches of *size* files."""
        files = iter(listing or self.listing())
        while chunk := list(islice(files, size)):
            yield self._cut(chunk, {})

    def partition_cuts(
        self,
        keys: Sequence[str],
        store: Path,  # noqa: ARG002  files are where they are
        listing: Listing | None = None,
        tell: Callable[[str], None] = ignore_warning,  # noqa: ARG002  the same
    ) -> Iterator[PlannedBatch]:
        """Yield the files of one combination of *keys* after the other; all paths are held meanwhile."""
        if self.partition_format is None:
            raise InputError(str(self.name), f"partition_keys are {list(keys)}, but this input has no partition_format")
        compiled = PartitionFormat(self.partition_format)
        if not set(keys) <= set(compiled.keys):
            raise unknown_keys(self.name, keys, compiled.keys, "the keys in partition_format")
        groups: dict[tuple[str, ...], list[Listed]] = {}
        for file in listing or self.listing():
            values = compiled.values(file.path)
            if values is None:
                raise InputError(file.path, f"does not end as partition_format says: {self.partition_format}")
            groups.setdefault(tuple(values[key] for key in keys), []).append(file)
        for combination, files in groups.items():
            yield self._cut(files, {"partition_key_value": dict(zip(keys, combination, strict=True))})

    def _cut(self, files: list[Listed], more: dict[str, object]) -> PlannedBatch:
        paths, sizes, versions = zip(*files, strict=True)
        root = _shared_root(paths[0], paths[-1])
        names = [path[len(root) :] for path in paths]
        work = {"input": self.name, "kind": "files", "root": root, "names": names, "sizes": sizes, "versions": versions}
        return PlannedBatch(len(files), sum(sizes), _encode({**work, **more}))


def _shared_root(first: str, last: str) -> str:
    """Return the folder, with a slash, that two paths share; in sorted order all between them share it too.

    >>> _shared_root("/a/b/c.png", "/a/b/d.png"), _shared_root("/a/b/c.png", "/a/bc/d.png")
    ('/a/b/', '/a/')
    """
    folder = first[: first.rindex("/") + 1]
    if last.startswith(folder):  # nearly always
        return folder
    shared = os.path.commonprefix((first, last))  # noqa: RUF071  cut at a slash here
    return shared[: shared.rindex("/") + 1]
