"""Where a machine keeps what is made once and used by many runs: environments, and script folders that travelled."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_NAME = "prefect_parallel_run"
_VARIABLE = "PREFECT_PARALLEL_RUN_CACHE"


def cache_folder() -> Path:
    """Return this user's cache folder on this machine, an absolute path; it exists, can be written and is nobody else's.

    It is ``$PREFECT_PARALLEL_RUN_CACHE``; without that ``prefect_parallel_run`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; where
    that is of no use (a container without a home, say), a folder of the user's own among the temporary files.

    Raises:
        OSError: There is no such folder. What is run from it would be run in the user's name, so one that belongs to another
            user, or that everybody may write to, is none.
    """
    if given := os.environ.get(_VARIABLE):
        return _private(Path(os.path.expanduser(given)).absolute())  # noqa: PTH111  Path's raises where there is no home
    try:
        return _private(_usual())
    except OSError:
        return _private(Path(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}").absolute())


def _usual() -> Path:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  the same
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if not caches.is_absolute():  # neither may be relative, by the XDG specification: it would be another one elsewhere
        raise NotADirectoryError(f"{caches} is no absolute path")
    return caches / _NAME


def _private(folder: Path) -> Path:
    """Return *folder*, made when it is not there; raises OSError unless it is this user's own, and can be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = (folder.lstat(), folder.stat())  # of a link, too: where anybody may write, anybody could have laid it
    if any(fact.st_uid != os.getuid() for fact in facts):
        raise PermissionError(f"the cache {folder} belongs to another user; set {_VARIABLE} to a folder of your own")
    if facts[1].st_mode & stat.S_IWOTH:
        raise PermissionError(f"the cache {folder} can be written by everybody; set {_VARIABLE} to a folder of your own")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the cache {folder} cannot be written; set {_VARIABLE} to a folder that can")
    return folder
