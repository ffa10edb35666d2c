"""The files of the entry script's code: what counts as a change of it, and what travels. One walk answers both.

With ``source_directory`` that is the whole folder. Without, it is the Python files that the script could import from around
it. Hidden files never belong to it (``.git``, ``.env``: where a secret lies, the name mostly begins with a dot), nor do caches,
virtual environments, run directories with the results beside them, and what ``.amlignore`` or ``.gitignore`` leaves out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.runs.ignore_rules import IgnoreRules
from prefect_parallel_run.runs.run_directory import FOLDER

MOST_FILES = 10_000  #: that travel
MOST_BYTES = 300 << 20  #: of them together, before they are packed
_LEFT_OUT = {"__pycache__", "node_modules", "site-packages"}
_INIT = "__init__.py"


class SourceFile(NamedTuple):
    """A file as it was found; two that are equal have the same content. A link is told as what it is."""

    name: str  #: its path below ``SourceTree.top``, with slashes
    path: str
    mode: int  #: kind and permissions, as in ``st_mode``
    size: int  #: bytes
    version: tuple[int, int]  #: inode, and when it was last changed in any way, ns


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Where the code lies.

    Args:
        folder: That is importable for the script: source_directory, or the script's own.
        script: In it, or below.
        whole: All of it belongs to the code, not only Python files.
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
        """Yield the files of the code, folder by folder, in no order that could be relied on.

        Of the packages around a source_directory only what makes them packages belongs to it.

        Raises:
            ValueError: A folder of source_directory, or a file of ignore rules, cannot be read.
        """
        top = self.top
        if not self.whole:
            yield from self._below(str(top), "", IgnoreRules.at(top))
            return
        for package in self.folder.parents:
            if not package.is_relative_to(top) or package == top:
                break
            yield from _found(str(package / _INIT), f"{package.relative_to(top).as_posix()}/{_INIT}")
        prefix = "" if self.folder == top else f"{self.folder.relative_to(top).as_posix()}/"
        yield from self._below(str(self.folder), prefix, IgnoreRules.at(self.folder), len(prefix))

    def _below(self, folder: str, prefix: str, rules: IgnoreRules, root: int = 0) -> Iterator[SourceFile]:
        """Yield the files below *folder*; names begin with *prefix*, of which *root* characters are above the rules' root."""
        try:
            with os.scandir(folder) as found:
                entries = {entry.name: entry for entry in found}
        except OSError as error:
            if self.whole:
                raise ValueError(f"source_directory cannot be read: {folder}: {error.strerror}") from error
            return  # what lies beside a script may belong to anybody
        if not entries.keys().isdisjoint({FOLDER, "pyvenv.cfg"}) and not self.script.is_relative_to(folder):
            return  # an output, or a virtual environment; where the script lies is code, whatever else is there
        for name, entry in entries.items():
            if name.startswith(".") or name in _LEFT_OUT or name == FOLDER:
                continue
            if entry.is_dir(follow_symlinks=False):
                below = f"{prefix}{name}/"
                if not rules.ignore(below[root:]):
                    yield from self._below(entry.path, below, rules.inside(Path(entry.path), below[root:]), root)
            elif self._is_code(entry) and not rules.ignore((prefix + name)[root:]):
                yield from _found(entry.path, prefix + name)

    def _is_code(self, entry: os.DirEntry[str]) -> bool:
        """Tell by the name alone: data may lie beside the script, a million files of it."""
        return self.whole or entry.name.endswith(".py") or entry.path == str(self.script)


def _found(path: str, name: str) -> Iterator[SourceFile]:
    """Yield the file at *path*, unless it is gone by now."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    yield SourceFile(name, path, status.st_mode, status.st_size, (status.st_ino, status.st_ctime_ns))


def is_regular(file: SourceFile) -> bool:
    """True for a file that is no link, pipe, socket or device."""
    return stat.S_ISREG(file.mode)
