"""Which files are to be left out, as ``.amlignore`` says or else ``.gitignore``: gitignore's syntax, read as git reads it.

No library: what there is decides about paths whole, and is then wrong for who walks a tree and asks about its folders (such as
``*``, ``!*/``, ``!*.py``, a usual way to keep Python files alone). A test asks git itself.
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
    """The rules that hold in one folder of a tree; those of a folder below come before those of the folders around it.

    A tree with an .amlignore at its root follows that file alone; in another one every folder may have its .gitignore.
    """

    files: tuple[_IgnoreFile, ...]  #: the innermost first
    nested: bool  #: folders below may have rules of their own

    @classmethod
    def at(cls, root: Path) -> IgnoreRules:
        """Return the rules that hold at the root of a tree; raises ValueError when they cannot be read."""
        if (root / AML_IGNORE).is_file():
            return cls((_IgnoreFile.read(root / AML_IGNORE, ""),), nested=False)
        return cls((), nested=True).inside(root, "")

    def inside(self, folder: Path, name: str) -> IgnoreRules:
        """Return the rules that hold in *folder*, whose *name* is its path below the root, with a slash at its end."""
        if not self.nested or not (folder / GIT_IGNORE).is_file():
            return self
        return IgnoreRules((_IgnoreFile.read(folder / GIT_IGNORE, name), *self.files), nested=True)

    def ignore(self, name: str) -> bool:
        """True when the entry *name* is left out: a path below the root, with a slash at its end if it is a folder.

        Only the entry itself is judged. What lies below a folder that is left out is so too, whatever rules say of it.
        """
        verdicts = (file.verdict(name) for file in self.files)
        return next((verdict for verdict in verdicts if verdict is not None), False)


class _IgnoreFile(NamedTuple):
    """One file of rules, for what lies below its folder."""

    prefix: str  #: path of the folder below the root
    rules: list[_Rule]  #: the last first: it is the one that counts

    @classmethod
    def read(cls, path: Path, prefix: str) -> _IgnoreFile:
        try:
            text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        found = [_Rule.of(line.removesuffix("\r")) for line in text.split("\n")]
        return cls(prefix, [rule for rule in reversed(found) if rule is not None])

    def verdict(self, name: str) -> bool | None:
        """True to leave the entry out, False to take it in, None when no rule is about it."""
        is_folder = name.endswith("/")
        path = name.removesuffix("/")[len(self.prefix) :]
        last = path.rpartition("/")[2]
        for rule in self.rules:
            if (is_folder or not rule.is_for_folders) and rule.pattern.fullmatch(last if rule.is_for_names else path):
                return rule.leaves_out
        return None


class _Rule(NamedTuple):
    """One line."""

    pattern: re.Pattern[str]
    leaves_out: bool  #: else it takes in again
    is_for_folders: bool  #: and for nothing else
    is_for_names: bool  #: wherever they are; else for paths

    @classmethod
    def of(cls, line: str) -> _Rule | None:
        """Return the rule in a line, None for a blank line or a comment."""
        glob = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line)
        if not glob or glob.startswith("#"):
            return None
        leaves_out = not glob.startswith("!")
        glob = glob if leaves_out else glob[1:]
        is_for_folders = glob.endswith("/")
        glob = glob.removesuffix("/")
        is_for_names = "/" not in glob
        return cls(_pattern(glob.removeprefix("/")), leaves_out, is_for_folders, is_for_names)


def _pattern(glob: str) -> re.Pattern[str]:
    """Return the expression that the paths of a glob match.

    >>> [bool(_pattern("data/**/[!a]*.csv").fullmatch(path)) for path in ("data/b.csv", "data/x/y/b.csv", "data/a.csv")]
    [True, True, False]
    """
    parts: list[str] = []
    at = 0
    while at < len(glob):
        token = _TOKEN.match(glob, at)
        if token is None:
            return _NOTHING  # a class without its end, or nothing behind a backslash
        parts.append(_expression(token))
        at = token.end()
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
    """Return the expression of a class of characters, none of which is a slash."""
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
