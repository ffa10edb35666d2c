"""The cache folder of a machine, and the environments in it.

Each environment is built at most once, by the first process that needs it, completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import sysconfig
import tempfile
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run._locks import locked
from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.errors import EnvironmentSetupError
from prefect_parallel_run.node.installers import Base, Installer, base_of, uv_command

_POLL_INTERVAL = 0.05  #: s, for a lock that another process holds
_NAME = "prefect_parallel_run"
_VARIABLE = "PREFECT_PARALLEL_RUN_CACHE"


class _Paths(NamedTuple):
    """The paths of one environment in the cache."""

    folder: Path  #: the environment; built in its final paths, because it cannot be moved
    complete: Path  #: a file in it that is written last; its modification time is the last use of the environment
    lock: Path  #: never removed: a waiting process has it open
    log: Path  #: output of the installers
    failure: Path  #: why the last build failed

    def interpreter(self) -> str | None:
        """Return the path of the environment's interpreter; None unless the environment is complete."""
        python = self.folder / "bin" / "python"
        if not self.complete.exists() or not os.access(python, os.X_OK):  # its base interpreter may have been removed since
            return None
        os.utime(self.complete)
        return str(python)


def built_interpreter(plan: EnvironmentPlan, cache: Path, stop: threading.Event) -> str:
    """Build *plan*'s environment unless *cache* has it, and return the path of its interpreter.

    Threads and processes may call this at the same time: one builds, the others wait for it and share its failure.

    Args:
        plan: The environment to build.
        cache: This machine's cache folder.
        stop: Set, from another thread, when the environment is no longer needed: installers are killed immediately.

    Raises:
        EnvironmentSetupError: The build failed (with the end of the installer's output) or was stopped, or the cache is not
            writable. A partial environment is removed.
    """

    def pause() -> None:
        if stop.wait(_POLL_INTERVAL):
            raise EnvironmentSetupError(plan.title, "stopped while waiting for another process that builds it")

    base = None if plan.conda else base_of(plan.python, plan.title, has_uv=uv_command() is not None)
    paths = _paths(plan, base, cache)
    try:
        paths.folder.parent.mkdir(mode=0o700, exist_ok=True)
        if (interpreter := paths.interpreter()) is not None:
            return interpreter
        earlier_failure = _read(paths.failure)
        with locked(paths.lock, pause) as lock:
            if (interpreter := paths.interpreter()) is not None:
                return interpreter
            failure = _read(paths.failure)
            if failure and failure != earlier_failure:  # another process failed meanwhile: a second build would fail too
                raise EnvironmentSetupError(plan.title, failure.partition("\n")[2])
            return _build(plan, base, paths, lock, stop)
    except OSError as error:
        raise EnvironmentSetupError(plan.title, f"cannot write it to the cache {cache}: {error}") from error


def _paths(plan: EnvironmentPlan, base: Base | None, cache: Path) -> _Paths:
    """Return an environment's paths, named by a hash of its plan, its base interpreter and the kind of machine."""
    base_key = None if base is None else [os.path.realpath(base.python) if "/" in base.python else "", base.version]
    machine = [sysconfig.get_platform(), *platform.libc_ver()]  # machines of several kinds may share a home
    key = hashlib.sha256(json.dumps([plan.fingerprint, base_key, machine]).encode()).hexdigest()[:32]
    folder = cache / "environments" / key
    siblings = [folder.with_suffix(suffix) for suffix in (".lock", ".log", ".failure")]
    return _Paths(folder, folder / "prefect_parallel_run.complete", *siblings)


def _build(plan: EnvironmentPlan, base: Base | None, paths: _Paths, lock: int, stop: threading.Event) -> str:
    """Build an environment while holding its lock, replacing the remains of an earlier attempt."""
    _remove(paths)
    paths.log.write_bytes(b"")
    try:
        with closing(Installer(plan, paths.folder, paths.log, lock, stop)) as installer:
            interpreter = installer.install(base)
        paths.complete.touch()
    except BaseException as error:
        _remove(paths)
        if isinstance(error, EnvironmentSetupError) and not stop.is_set():
            paths.failure.write_text(f"{secrets.token_hex(8)}\n{error.reason}", encoding="utf-8")
        raise
    return interpreter


def _remove(paths: _Paths) -> None:
    paths.complete.unlink(missing_ok=True)  # first: a partly removed environment must not look complete
    with suppress(FileNotFoundError):
        shutil.rmtree(paths.folder)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


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
