"""Finds the files of the entry script's code, both for its fingerprint and for the archive that is sent to the nodes.

With ``source_directory`` that is the whole folder. Without it, the code is the Python files that the script could import from
its surroundings. Excluded are hidden files (such as ``.git`` and ``.env``, because secrets mostly have names with a leading
dot), caches, virtual environments, run directories with the results beside them, and files that ``.amlignore`` or
``.gitignore`` excludes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.runs.ignore_rules import IgnoreRules
from prefect_parallel_run.storage.paths import RUNS_FOLDER

MOST_FILES = 10_000  #: that are sent to nodes
MOST_BYTES = 300 << 20  #: their total size before compression
_EXCLUDED = {"__pycache__", "node_modules", "site-packages"}
_INIT = "__init__.py"


class SourceFile(NamedTuple):
    """A file as it was listed; equal values mean equal content. Links are not followed."""

    name: str  #: path below ``SourceTree.top``, with slashes
    path: str
    mode: int  #: kind and permissions, as in ``st_mode``
    size: int  #: bytes
    version: tuple[int, int]  #: inode, and ctime in ns


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The folder of the code.

    Args:
        folder: Folder from which the script can import: source_directory, or the script's own.
        script: The entry script, in *folder* or below.
        whole: All files in the folder belong to the code, not only Python files.
    """

    folder: Path
    script: Path
    whole: bool

    @property
    def top(self) -> Path:
        """Return the folder above the outermost package that *folder* lies in: relative imports reach that far up."""
        top = self.folder
        while (top / _INIT).exists() and top != top.parent:
            top = top.parent
        return top

    def files(self) -> Iterator[SourceFile]:
        """Yield the files of the code, folder by folder, in arbitrary order.

        From the packages that contain a source_directory only their ``__init__.py`` is included.

        Raises:
            ValueError: A folder in source_directory, or a file of ignore rules, cannot be read.
        """
        top = self.top
        if not self.whole:
            yield from self._below(str(top), "", IgnoreRules.at(top))
            return
        for package in self.folder.parents:
            if not package.is_relative_to(top) or package == top:
                break
            yield from _stat(str(package / _INIT), f"{package.relative_to(top).as_posix()}/{_INIT}")
        prefix = "" if self.folder == top else f"{self.folder.relative_to(top).as_posix()}/"
        yield from self._below(str(self.folder), prefix, IgnoreRules.at(self.folder), len(prefix))

    def _below(self, folder: str, prefix: str, rules: IgnoreRules, root: int = 0) -> Iterator[SourceFile]:
        """Yield the files below *folder*, with names below *prefix*; its first *root* characters are above the rules' root."""
        try:
            with os.scandir(folder) as scan:
                entries = {entry.name: entry for entry in scan}
        except OSError as error:
            if self.whole:
                raise ValueError(f"source_directory cannot be read: {folder}: {error.strerror}") from error
            return  # folders beside a script may belong to other users
        if not entries.keys().isdisjoint({RUNS_FOLDER, "pyvenv.cfg"}) and not self.script.is_relative_to(folder):
            return  # an output, or a virtual environment; the script's own folder is always code
        for name, entry in entries.items():
            if name.startswith(".") or name in _EXCLUDED or name == RUNS_FOLDER:
                continue
            if entry.is_dir(follow_symlinks=False):
                below = f"{prefix}{name}/"
                if not rules.ignore(below[root:]):
                    yield from self._below(entry.path, below, rules.inside(Path(entry.path), below[root:]), root)
            elif self._is_code(entry) and not rules.ignore((prefix + name)[root:]):
                yield from _stat(entry.path, prefix + name)

    def _is_code(self, entry: os.DirEntry[str]) -> bool:
        """Judge by the name alone: there may be a million data files beside the script."""
        return self.whole or entry.name.endswith(".py") or entry.path == str(self.script)


def _stat(path: str, name: str) -> Iterator[SourceFile]:
    """Yield the file at *path*, unless it was deleted meanwhile."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    yield SourceFile(name, path, status.st_mode, status.st_size, (status.st_ino, status.st_ctime_ns))


def is_regular(file: SourceFile) -> bool:
    """True for a file that is not a link, pipe, socket or device."""
    return stat.S_ISREG(file.mode)
