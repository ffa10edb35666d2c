"""Absolute paths with the semantics of ``open()``: ``..`` after a symbolic link leads to the parent of the link's target."""

from __future__ import annotations

import os
from pathlib import Path


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
