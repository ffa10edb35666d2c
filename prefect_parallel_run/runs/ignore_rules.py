"""Excludes files by ``.amlignore``, or else by ``.gitignore``: gitignore's syntax with git's semantics.

No library is used: those available match whole paths, which gives wrong results while walking a tree folder by folder (for
example ``*``, ``!*/``, ``!*.py``, a common way to keep only Python files). A test compares the result with git's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that apply in one folder of a tree; those of a subfolder take precedence over those of its parents.

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
