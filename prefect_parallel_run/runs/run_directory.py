"""The directory of one run, ``<output>/_parallel_run/<run>/``: the paths in it, its JSON files and its lock."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect_parallel_run._atomic import AtomicFile, wrap_disk_errors
from prefect_parallel_run._locks import open_lock, try_lock
from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import NoRunError, PrefectHomeError, RunFileError, RunLockedError
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_LOCK_ATTEMPTS, _LOCK_DELAY = 5, 0.02  #: s between attempts: another process may hold the lock just to read its owner
_CHECKSUM = "checksum"  #: key in a JSON file: SHA-256 of all other keys


def workplace(output: str | None, home: Path) -> Path:
    """Return the local folder in which a step with this output works; it contains the run directories.

    Args:
        output: An absolute path, or a URL; None for a step without output.
        home: Prefect's home, for runs whose output is not a local folder.
    """
    if output is None:
        return home / "parallel_run"
    if is_remote(output):
        return home / "parallel_run" / "stores" / hashlib.sha256(output.encode()).hexdigest()[:16]
    return Path(output)


def local_run_path(location: str) -> Path:
    """Return the local path of a run directory given as a path or URL; it need not exist."""
    if not is_remote(location):
        return Path(location).absolute()
    output, _, run_id = location.rstrip("/").rpartition(f"/{RUNS_FOLDER}/")
    return workplace(output, prefect_home()) / RUNS_FOLDER / run_id


def prefect_home() -> Path:
    """Return Prefect's home, without importing Prefect."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def check_home(home: Path) -> None:
    """Create Prefect's home if it does not exist; raise PrefectHomeError when it is not writable."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise PrefectHomeError(str(home), str(error.strerror)) from error


class RunDirectory:
    """Paths in a run directory, and its description ``run.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.parquet"
        self.spool = path / "plan.spool"  #: the mini-batches planned so far, during planning
        self.ledger = path / "ledger.sqlite"
        self.parts = path / "parts"
        self.logs = path / "logs"
        self.inputs = path / "inputs"  #: copies of inputs that are read once
        self.failed_items = path / "failed_items.jsonl"
        self.receipt = path / "receipt.json"
        self.report = path / "report.html"
        self.description = path / "run.json"
        self.commands = path / "control.jsonl"  #: commands that users send while the run executes
        self.answers = path / "control.answers.jsonl"
        self._lock = path / "lock"

    @property
    def run_id(self) -> str:
        """Return the name of the run."""
        return self.path.name

    def make(self) -> None:
        """Create the directory and its subfolders."""
        with wrap_disk_errors(self.path, "created"):
            for folder in (self.parts, self.logs):
                folder.mkdir(parents=True, exist_ok=True)

    def metadata(self) -> dict[str, Any]:
        """Return the content of run.json."""
        return read_json(self.description)

    def owner(self) -> dict[str, Any] | None:
        """Return ``pid`` and ``host`` of the process that executes the run, and the execution's id; None when there is none.

        This check holds the lock for an instant; a process that wants to execute the run waits that long.
        """
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return None if try_lock(descriptor, shared=True) else _owner(descriptor)
        finally:
            os.close(descriptor)

    def lock(self) -> RunLock:
        """Lock the run directory for this process; raises RunLockedError when another process holds the lock."""
        return RunLock(self._lock)


def no_run_error(location: str, directory: RunDirectory) -> NoRunError:
    """Return the error for a *location*, as the user wrote it, whose *directory* is not a run directory."""
    reason = "is not a run directory: it has no run.json" if directory.path.exists() else "does not exist"
    return NoRunError(location, reason)


class RunLock:
    """A file lock that the operating system releases when its owner dies, even when killed."""

    def __init__(self, path: Path) -> None:
        self.execution_id = uuid.uuid4().hex  #: id of this execution
        self._descriptor = open_lock(path, 0o666)
        if not _lock(self._descriptor):
            owner = _owner(self._descriptor)
            os.close(self._descriptor)
            raise RunLockedError(str(path.parent), f"process {owner['pid']}", str(owner["host"]))
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "driver": self.execution_id}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def release(self) -> None:
        """Release the run directory; calling it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    """Lock a file; False when another process holds the lock for longer than reading its owner takes."""
    for _ in range(_LOCK_ATTEMPTS):
        if try_lock(descriptor):
            return True
        time.sleep(_LOCK_DELAY)
    return False


def _owner(descriptor: int) -> dict[str, Any]:
    """Return ``pid``, ``host`` and ``driver`` in a lock file; "?" or "" for values that are not written yet."""
    try:
        owner: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # being written
        owner = {}
    return {"pid": owner.get("pid", "?"), "host": owner.get("host", "?"), "driver": owner.get("driver", "")}


def runs_below(home: Path, prefix: str) -> Iterator[RunDirectory]:
    """Yield the run directories in *home* whose names begin with *prefix*, newest first."""
    if not home.is_dir():
        return
    paths = [path for path in home.iterdir() if path.name.startswith(prefix) and (path / "run.json").exists()]
    for path in sorted(paths, key=lambda path: (path / "run.json").stat().st_mtime_ns, reverse=True):
        yield RunDirectory(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write *content* with its checksum to *path* atomically, and sync it."""
    checksum = _checksum_of(json.loads(json.dumps(content)))
    text = json.dumps({**content, _CHECKSUM: checksum}, indent=2)  # ASCII only: a path may contain undecodable bytes
    with wrap_disk_errors(path), AtomicFile(path, sync=True) as file:
        file.write(f"{text}\n".encode("ascii"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in *path*; raises RunFileError when it cannot be read, or its checksum is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFileError(str(path), f"cannot be read: {error.strerror}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, path: str) -> dict[str, Any]:
    """Return the JSON object that ``write_json`` wrote as *data*; raises RunFileError like ``read_json``.

    Files of earlier versions have no checksum.
    """
    try:
        content = json.loads(data, object_pairs_hook=lambda pairs: _JsonObject(path, pairs))
    except ValueError as error:
        raise RunFileError(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(content, _JsonObject):
        raise RunFileError(path, "is not a JSON object")
    if content.pop(_CHECKSUM, None) not in (None, _checksum_of(content)):
        raise RunFileError(path, "was altered since the run wrote it: its checksum is wrong")
    return content


def _checksum_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _JsonObject(dict[str, Any]):
    """A JSON object read from a file; a missing key raises an error that names the file."""

    def __init__(self, path: str, pairs: Iterable[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RunFileError(self._path, f"lacks {key!r}")
