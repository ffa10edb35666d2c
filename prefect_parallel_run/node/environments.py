"""Environments of this machine: each is built at most once, by whoever asks first, and is there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.environments import EnvironmentPlan
from prefect_parallel_run.errors import EnvironmentSetupError
from prefect_parallel_run.node.interpreters import Base, base_of
from prefect_parallel_run.node.pip_environments import Installer, uv_command

_LOOK = 0.05  #: s between two looks at a lock that somebody holds


class _Place(NamedTuple):
    """What the cache holds of one environment."""

    folder: Path  #: its own; environments cannot be moved, so it is built where it stays
    complete: Path  #: a file in it that is written last; its time tells when the environment was last used
    lock: Path  #: never removed: who waits for it has it open
    log: Path  #: what the installers said
    failure: Path  #: why it could not be built the last time

    def interpreter(self) -> str | None:
        """Return the path of the environment's interpreter; None unless all of it is there."""
        python = self.folder / "bin" / "python"
        if not self.complete.exists() or not os.access(python, os.X_OK):  # what it was built on may have gone since
            return None
        os.utime(self.complete)
        return str(python)


def built_interpreter(plan: EnvironmentPlan, cache: Path, stop: threading.Event) -> str:
    """Return the path of the interpreter of *plan*'s environment, which is built unless *cache* has it.

    Threads and processes may ask at once: one builds, the others wait for it, and share its failure.

    Args:
        plan: What to build.
        cache: This machine's cache folder.
        stop: Set, from another thread, when the environment is no longer wanted: installers are killed at once.

    Raises:
        EnvironmentSetupError: It could not be built, with the installer's last words; it was stopped; or the cache cannot be
            written. Nothing half-built is left.
    """
    base = None if plan.conda else base_of(plan.python, plan.title, has_uv=uv_command() is not None)
    place = _place(plan, base, cache)
    try:
        place.folder.parent.mkdir(mode=0o700, exist_ok=True)
        if (found := place.interpreter()) is not None:
            return found
        known = _read(place.failure)
        with _locked(place.lock, plan, stop) as lock:
            if (found := place.interpreter()) is not None:
                return found
            failure = _read(place.failure)
            if failure and failure != known:  # of whoever built while we waited: the same again would only fail again
                raise EnvironmentSetupError(plan.title, failure.partition("\n")[2])
            return _build(plan, base, place, lock, stop)
    except OSError as error:
        raise EnvironmentSetupError(plan.title, f"it cannot be kept in the cache {cache}: {error}") from error


def _place(plan: EnvironmentPlan, base: Base | None, cache: Path) -> _Place:
    """Return where an environment is kept: named by what is asked for, what it is built on, and the kind of machine."""
    ground = None if base is None else [os.path.realpath(base.python) if "/" in base.python else "", base.version]
    kind = [sysconfig.get_platform(), *platform.libc_ver()]  # machines of several kinds may share a home
    key = hashlib.sha256(json.dumps([plan.fingerprint, ground, kind]).encode()).hexdigest()[:32]
    folder = cache / "environments" / key
    beside = [folder.with_suffix(ending) for ending in (".lock", ".log", ".failure")]
    return _Place(folder, folder / "prefect_parallel_run.complete", *beside)


@contextmanager
def _locked(path: Path, plan: EnvironmentPlan, stop: threading.Event) -> Iterator[int]:
    """Hold the lock of an environment; yields its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _takes(descriptor):
            if stop.wait(_LOOK):
                raise EnvironmentSetupError(plan.title, "waiting for whoever builds it was stopped")
        yield descriptor
    finally:
        os.close(descriptor)


def _takes(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _build(plan: EnvironmentPlan, base: Base | None, place: _Place, lock: int, stop: threading.Event) -> str:
    """Build an environment, the lock being held, in place of what is left of an earlier attempt."""
    _remove(place)
    place.log.write_bytes(b"")
    try:
        with Installer(plan, place.folder, place.log, lock, stop) as installer:
            interpreter = installer.install(base)
        place.complete.touch()
    except BaseException as error:
        _remove(place)
        if isinstance(error, EnvironmentSetupError) and not stop.is_set():
            place.failure.write_text(f"{secrets.token_hex(8)}\n{error.reason}", encoding="utf-8")
        raise
    return interpreter


def _remove(place: _Place) -> None:
    place.complete.unlink(missing_ok=True)  # first: what is removed in part is not there
    with suppress(FileNotFoundError):
        shutil.rmtree(place.folder)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
