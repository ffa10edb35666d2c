"""The cache folder of a machine, for what many runs use: environments and unpacked code archives."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_NAME = "prefect_parallel_run"
_VARIABLE = "PREFECT_PARALLEL_RUN_CACHE"


def cache_folder() -> Path:
    """Return this user's cache folder on this machine as an absolute path; it exists, is writable and private.

    It is ``$PREFECT_PARALLEL_RUN_CACHE``; without that ``prefect_parallel_run`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; if
    that is unusable (in a container without a home, say), a private folder among the temporary files.

    Raises:
        OSError: None of these folders is usable. Code in the folder runs with the user's rights, so a folder that belongs to
            another user, or that everyone may write to, is refused.
    """
    if path := os.environ.get(_VARIABLE):
        return _private(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111  Path.expanduser raises without a home
    try:
        return _private(_default())
    except OSError:
        return _private(Path(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}").absolute())


def _default() -> Path:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home raises without a home
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if not caches.is_absolute():  # the XDG specification forbids relative paths: they would depend on the working directory
        raise NotADirectoryError(f"the cache folder must be an absolute path, got {caches}")
    return caches / _NAME


def _private(folder: Path) -> Path:
    """Create *folder* if necessary and return it; raises OSError unless it belongs to this user and is writable."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    link, target = folder.lstat(), folder.stat()  # the link too: in a shared folder, another user could have created it
    if not os.getuid() == link.st_uid == target.st_uid:
        raise PermissionError(f"the cache {folder} belongs to another user; set {_VARIABLE} to a folder of your own")
    if target.st_mode & stat.S_IWOTH:
        raise PermissionError(f"the cache {folder} is writable by everyone; set {_VARIABLE} to a folder of your own")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the cache {folder} is not writable; set {_VARIABLE} to a writable folder")
    return folder
