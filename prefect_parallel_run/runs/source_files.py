"""Finds the files of the entry script's code, both for its fingerprint and for the archive that is sent to the nodes.

With ``source_directory`` that is the whole folder. Without it, the code is the Python files that the script could import from
its surroundings. Excluded are hidden files (such as ``.git`` and ``.env``, because secrets mostly have names with a leading
dot), caches, virtual environments, run directories with the results beside them, and files that ``.amlignore`` or
``.gitignore`` excludes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.storage.paths import RUNS_FOLDER

MOST_FILES = 10_000  #: that are sent to nodes
MOST_BYTES = 300 << 20  #: their total size before compression
_EXCLUDED = {"__pycache__", "node_modules", "site-packages"}
_INIT = "__init__.py"
AML_IGNORE, GIT_IGNORE = ".amlignore", ".gitignore"
_NOTHING = re.compile(r"(?!)")
_TOKEN = re.compile(
    r"""(?P<deep>(?:^|(?<=/))\*\*+(?:/|$))  # any number of folders
    |(?P<star>\*+)
    |(?P<one>\?)
    |\[(?P<not>[!^]?)(?P<members>\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]
    |\\?(?P<letter>(?<=\\).|[^\[\\])""",
    re.DOTALL | re.VERBOSE,
)
_MEMBER = re.compile(r"\[:(?P<named>\w+):\]|(?P<low>\\?.)(?:-(?P<high>\\?.))?", re.DOTALL)
_NAMED = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-\/:-@\[-`{-~",
    "space": r" \t-\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


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
        whole: All files in the folder belong to the code; False: only Python files.
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

        Of the packages that contain a source_directory, only their ``__init__.py`` files are included.

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


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that apply in one folder of a tree, with git's semantics; those of a subfolder take precedence.

    No library is used: those available match whole paths, which gives wrong results while walking a tree folder by folder (for
    example ``*``, ``!*/``, ``!*.py``, a common way to keep only Python files). A test compares the result with git's.

    A tree with an .amlignore at its root uses only that file; in any other tree every folder may have a .gitignore.
    """

    files: tuple[_IgnoreFile, ...]  #: the innermost first
    nested: bool  #: subfolders may have their own rules

    @classmethod
    def at(cls, root: Path) -> IgnoreRules:
        """Return the rules at the root of a tree; raises ValueError when they cannot be read."""
        if (root / AML_IGNORE).is_file():
            return cls((_IgnoreFile.read(root / AML_IGNORE, ""),), nested=False)
        return cls((), nested=True).inside(root, "")

    def inside(self, folder: Path, name: str) -> IgnoreRules:
        """Return the rules in *folder*, whose *name* is its path below the root with a trailing slash."""
        if not self.nested or not (folder / GIT_IGNORE).is_file():
            return self
        return IgnoreRules((_IgnoreFile.read(folder / GIT_IGNORE, name), *self.files), nested=True)

    def ignore(self, name: str) -> bool:
        """True when the entry *name* is excluded: a path below the root, with a trailing slash if it is a folder.

        Only the entry itself is judged. The content of an excluded folder is excluded too, even if rules include it again.
        """
        verdicts = (file.verdict(name) for file in self.files)
        return next((verdict for verdict in verdicts if verdict is not None), False)


class _IgnoreFile(NamedTuple):
    """One file of rules, which apply below its folder."""

    prefix: str  #: path of the folder below the root
    rules: list[_Rule]  #: in reverse order: the last matching rule wins

    @classmethod
    def read(cls, path: Path, prefix: str) -> _IgnoreFile:
        try:
            text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        rules = [_Rule.of(line.removesuffix("\r")) for line in text.split("\n")]
        return cls(prefix, [rule for rule in reversed(rules) if rule is not None])

    def verdict(self, name: str) -> bool | None:
        """True to exclude the entry, False to include it, None when no rule matches."""
        is_folder = name.endswith("/")
        path = name.removesuffix("/")[len(self.prefix) :]
        last = path.rpartition("/")[2]
        for rule in self.rules:
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(last if rule.matches_names else path):
                return rule.excludes
        return None


class _Rule(NamedTuple):
    """One line."""

    pattern: re.Pattern[str]
    excludes: bool  #: False: it includes again
    folders_only: bool
    matches_names: bool  #: names in any folder; False: paths

    @classmethod
    def of(cls, line: str) -> _Rule | None:
        """Return the rule in a line, None for a blank line or a comment."""
        glob = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line)
        if not glob or glob.startswith("#"):
            return None
        excludes = not glob.startswith("!")
        glob = glob if excludes else glob[1:]
        folders_only = glob.endswith("/")
        glob = glob.removesuffix("/")
        matches_names = "/" not in glob
        return cls(_pattern(glob.removeprefix("/")), excludes, folders_only, matches_names)


def _pattern(glob: str) -> re.Pattern[str]:
    """Return a regular expression that matches the same paths as a glob.

    >>> [bool(_pattern("data/**/[!a]*.csv").fullmatch(path)) for path in ("data/b.csv", "data/x/y/b.csv", "data/a.csv")]
    [True, True, False]
    """
    parts: list[str] = []
    position = 0
    while position < len(glob):
        token = _TOKEN.match(glob, position)
        if token is None:
            return _NOTHING  # an unterminated class, or a trailing backslash
        parts.append(_expression(token))
        position = token.end()
    return re.compile("".join(parts), re.DOTALL)


def _expression(token: re.Match[str]) -> str:
    if token["deep"]:
        return "(?:.*/)?" if token["deep"].endswith("/") else ".+"
    if token["star"]:
        return "[^/]*"
    if token["one"]:
        return "[^/]"
    return re.escape(token["letter"]) if token["letter"] else _class(token)


def _class(token: re.Match[str]) -> str:
    """Return the regular expression of a character class, which never matches a slash."""
    members = ""
    for member in _MEMBER.finditer(token["members"]):
        low, high = ((member[name] or "")[-1:] for name in ("low", "high"))
        if member["named"] is not None:
            members += _NAMED.get(member["named"], "")
        elif not high:
            members += re.escape(low)
        elif low <= high:
            members += f"{re.escape(low)}-{re.escape(high)}"
    if token["not"]:
        return f"[^/{members}]"
    return f"(?!/)[{members}]" if members else "(?!)"
