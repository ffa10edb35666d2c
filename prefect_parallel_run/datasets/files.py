"""FileDataset: every file is an item."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from prefect_parallel_run.datasets.base import Dataset, PathLike, given_paths
from prefect_parallel_run.datasets.listing import Listed, list_files
from prefect_parallel_run.records import Cut


class FileDataset(Dataset):
    """Files; ``run()`` gets a list of their absolute paths."""

    @classmethod
    def from_files(cls, paths: PathLike | Iterable[PathLike], *, allow_empty: bool = False) -> FileDataset:
        """Return a dataset of the files that *paths* stand for: files, folders (with all below them), globs."""
        return cls(paths=given_paths(paths), allow_empty=allow_empty)

    @property
    def kind(self) -> Literal["file", "tabular"]:
        """Return "file"."""
        return "file"

    def cuts(self, size: int) -> Iterator[Cut]:
        """Yield mini-batches of *size* files."""
        files = list_files(self.paths)
        encode = json.JSONEncoder(separators=(",", ":")).encode
        while chunk := list(islice(files, size)):
            yield Cut(len(chunk), sum(file.size for file in chunk), encode(self._work(chunk)))

    def _work(self, chunk: list[Listed]) -> dict[str, object]:
        # In sorted order the first and the last path share what all of them share.
        shared = os.path.commonprefix((chunk[0].path, chunk[-1].path))  # noqa: RUF071  cut at a slash below
        root = shared[: shared.rindex("/") + 1]
        start = len(root)
        return {
            "input": self.name,
            "kind": "files",
            "root": root,
            "names": [file.path[start:] for file in chunk],
            "sizes": [file.size for file in chunk],
            "mtimes": [file.mtime for file in chunk],
        }
