"""Paths and URLs of inputs and outputs: made absolute, and their folders. Nothing here reads a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import InputError

RUNS_FOLDER = "_parallel_run"  #: holds run directories, beside a result; never part of an input


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return *path* as an absolute path, without ``..`` after folders that exist.

    A folder that is a symbolic link is resolved before its parent is used, like the operating system does;
    ``os.path.normpath`` would drop both. ``..`` after a folder that does not exist, such as a pattern, stays.
    """
    whole = Path(path).absolute()
    result = Path(whole.anchor)
    for part in whole.parts[1:]:
        if part != os.pardir or not result.is_dir():
            result /= part
        else:
            result = (result.resolve() if result.is_symlink() else result).parent
    return str(result)


def absolute_location(path: str | os.PathLike[str]) -> str:
    """Return a path as an absolute string; a ``file://`` URL becomes a path, other URLs stay.

    Raises:
        InputError: A URL contains a password, is a chain of several URLs, or has no path.
    """
    text = os.fspath(path)
    if text.startswith(("file://", "local://")):
        text = unquote(text.partition("://")[2])
    if not is_remote(text):
        return absolute_path(text) if text else ""
    if urlsplit(text).password is not None:
        raise InputError(
            f"{text.partition('://')[0]}://…", "contains a password, which would be stored on disk; set it in the environment"
        )
    if "::" in text:
        raise InputError(text, "is a chain of URLs; pass a single one")
    if not text.partition("://")[2].strip("/"):
        raise InputError(text, "has no bucket or path after ://")
    return text


def literal_folder(path: str) -> str:
    """Return the leading folder without wildcards of a path, pattern or URL, with a trailing slash."""
    magic = re.search(r"[*?\[]", path)
    return f"{path.rstrip('/')}/" if magic is None else path[: path.rindex("/", 0, magic.start()) + 1]
