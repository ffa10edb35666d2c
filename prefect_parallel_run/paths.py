"""Absolute paths that mean what they mean to ``open()``: ``..`` behind a symbolic link leads to the link target's parent."""

from __future__ import annotations

import os
from pathlib import Path


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return *path* as an absolute path, without ``..`` where the folder before it exists.

    A folder that is a symbolic link is resolved before its parent is taken, as the system does; ``os.path.normpath`` would
    drop both. ``..`` behind a folder that does not exist, such as one of a pattern, stays.
    """
    whole = Path(path).absolute()
    result = Path(whole.anchor)
    for part in whole.parts[1:]:
        if part != os.pardir or not result.is_dir():
            result /= part
        else:
            result = (result.resolve() if result.is_symlink() else result).parent
    return str(result)
