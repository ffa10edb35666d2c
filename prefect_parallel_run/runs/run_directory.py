"""The folder of one run, ``<output>/_parallel_run/<run>/``: where things lie in it, and its lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect_parallel_run.child.storage import is_remote
from prefect_parallel_run.errors import NoRunError, OutputError, PrefectHomeError, RunFileError, RunLockedError

_LOOKS, _LOOKING = 5, 0.02  #: times, and s between them, that a lock is asked for: somebody may only be looking who has it
_CHECKSUM = "checksum"  #: key in a JSON file: SHA-256 of everything else in it
FOLDER = "_parallel_run"  #: beside the result, holds the run directories


def workplace(output: str | None, home: Path) -> Path:
    """Return the folder of this machine in which a step with this output works; run directories are below it.

    Args:
        output: An absolute path, or a URL; None for a step without output.
        home: Folder for what belongs to no output of this machine.
    """
    if output is None:
        return home / "parallel_run"
    if is_remote(output):
        return home / "parallel_run" / "stores" / hashlib.sha256(output.encode()).hexdigest()[:16]
    return Path(output)


def place_here(place: str) -> Path:
    """Return the folder of this machine in which a run directory, a path or URL, is worked on; it need not be there."""
    if not is_remote(place):
        return Path(place).absolute()
    output, _, run_id = place.rstrip("/").rpartition(f"/{FOLDER}/")
    return workplace(output, prefect_home()) / FOLDER / run_id


def prefect_home() -> Path:
    """Return Prefect's home, without importing Prefect."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


def check_home(home: Path) -> None:
    """Create Prefect's home where it does not exist; raise PrefectHomeError when no file can be created in it."""
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
        self.spool = path / "plan.spool"  #: what is planned so far, while the plan is being made
        self.ledger = path / "ledger.sqlite"
        self.parts = path / "parts"
        self.logs = path / "logs"
        self.failed_items = path / "failed_items.jsonl"
        self.receipt = path / "receipt.json"
        self.report = path / "report.html"
        self.description = path / "run.json"
        self.orders = path / "control.jsonl"  #: what people order while the run goes on
        self.answers = path / "control.answers.jsonl"
        self._lock = path / "lock"

    @property
    def run_id(self) -> str:
        """Return the name of the run."""
        return self.path.name

    def make(self) -> None:
        """Create the folder and what is in it."""
        try:
            for folder in (self.parts, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(str(self.path), f"cannot be created: {error.strerror}") from error

    def describe(self, facts: dict[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        write_json(self.description, facts)

    def facts(self) -> dict[str, Any]:
        """Return what run.json says."""
        return read_json(self.description)

    def is_locked(self) -> bool:
        """True while a process drives the run."""
        return self.driver() is not None

    def driver(self) -> dict[str, Any] | None:
        """Return ``pid`` and ``host`` of the process that drives the run, and its name for that; None when there is none.

        Only looks: it is no driver's way for more than an instant, which a driver waits for.
        """
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _owner(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)

    def lock(self) -> RunLock:
        """Take the run directory for this process; raises RunLockedError when another one drives it."""
        return RunLock(self._lock)


def no_run(place: str, directory: RunDirectory) -> NoRunError:
    """Return what is wrong with a place, as users see it, whose *directory* is no run's."""
    return NoRunError(place, "is no run directory: it has no run.json" if directory.path.exists() else "does not exist")


class RunLock:
    """A file lock that the system gives up when its owner dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.driver = uuid.uuid4().hex  #: names this driving of the run
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not _locked(self._descriptor):
            owner = _owner(self._descriptor)
            os.close(self._descriptor)
            raise RunLockedError(str(path.parent), f"process {owner['pid']}", str(owner["host"]))
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "driver": self.driver}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def release(self) -> None:
        """Give the run directory up, if that has not been done."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def _locked(descriptor: int) -> bool:
    """Lock a file; False when another process has it for longer than it takes to look who that is."""
    for _ in range(_LOOKS):
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOOKING)
    return False


def _owner(descriptor: int) -> dict[str, Any]:
    """Return ``pid``, ``host`` and ``driver`` in a lock file; a question mark, or nothing, for what is not there yet."""
    try:
        found: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # being written
        found = {}
    return {"pid": found.get("pid", "?"), "host": found.get("host", "?"), "driver": found.get("driver", "")}


def runs_below(home: Path, prefix: str) -> Iterator[RunDirectory]:
    """Yield the run directories in *home* whose names begin with *prefix*, the newest first."""
    if not home.is_dir():
        return
    found = [entry for entry in home.iterdir() if entry.name.startswith(prefix) and (entry / "run.json").exists()]
    for entry in sorted(found, key=lambda path: (path / "run.json").stat().st_mtime_ns, reverse=True):
        yield RunDirectory(entry)


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write *facts* and their checksum beside *path*, synced, and rename them into place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(
                {**facts, _CHECKSUM: _checksum_of(json.loads(json.dumps(facts)))}, file, indent=2
            )  # escaped: a path may have bytes in it that are no text
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise OutputError(str(path), f"cannot be written: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in *path*; raises RunFileError when it cannot be read, or was altered since it was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFileError(str(path), f"cannot be read: {error.strerror}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, path: str) -> dict[str, Any]:
    """Return the JSON object that ``write_json`` wrote as *data*; raises RunFileError like ``read_json``.

    One that an earlier version wrote has no checksum.
    """
    try:
        found = json.loads(data, object_pairs_hook=lambda pairs: _Facts(path, pairs))
    except ValueError as error:
        raise RunFileError(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(found, _Facts):
        raise RunFileError(path, "is not a JSON object")
    if found.pop(_CHECKSUM, None) not in (None, _checksum_of(found)):
        raise RunFileError(path, "was altered since the run wrote it: its checksum is wrong")
    return found


def _checksum_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class _Facts(dict[str, Any]):
    """A JSON object in a file; what the file lacks is an error that names the file."""

    def __init__(self, path: str, pairs: Iterable[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RunFileError(self._path, f"lacks {key!r}")
