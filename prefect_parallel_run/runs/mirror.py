"""Mirrors a run directory on the local disk to an object store, so that another machine can resume the run.

The run works in a local folder. Changes are uploaded periodically, in an order that keeps the copy consistent: take a snapshot
of the ledger, upload the ranges of parts that it refers to, then upload the snapshot. Every range in the uploaded ledger is
therefore available in the store, and only immutable bytes are uploaded. Parts grow, and objects cannot: a part is stored as a
series of objects, ``parts/NAME.OFFSET``.

``lock.json`` names the process that executes the run, and holds a token that is also in the run's local folder: a local folder
with this token is the newest copy.
"""

from __future__ import annotations

import calendar
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from prefect_parallel_run._threads import Background, Cancelled, CheckCancelled, cancelled_after, never_cancelled
from prefect_parallel_run.errors import OutputError, RunLockedError
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.storage import objects
from prefect_parallel_run.storage.paths import RUNS_FOLDER

_EVERY = 30.0  #: s between uploads
_POLL = 0.25  #: s between checks whether the run has ended
_RENEWED_EVERY = 15.0  #: s between renewals of the lock during an upload
_LAST_PUSH = 4.0  #: s for the last upload of an interrupted run
_STALE = 4 * _EVERY  #: s without renewal after which the lock's owner counts as dead
_PIECE = 64 << 20  #: maximum size of an object that holds a piece of a part, bytes
_DIGITS = 15  #: digits of the offset in the name of a piece
_DESCRIPTION, _RECEIPT, _LOCK, _TOKEN = "run.json", "receipt.json", "lock.json", "mirror-token"
_DIGEST = {_DESCRIPTION, _RECEIPT}  #: files that suffice to decide whether a finished run can be reused
_WHOLE = _DIGEST | {"plan.parquet", "plan.spool", "ledger.sqlite", "failed_items.jsonl"}


class RunMirror:
    """Keeps the copy of one run directory up to date.

    Args:
        directory: The local run directory.
        url: URL of its copy.
        warned: Called with a message when an upload fails; the upload is retried.
    """

    def __init__(self, directory: RunDirectory, url: str, warned: Callable[[str], None]) -> None:
        self._directory, self._url, self._warn = directory, url, warned
        self._token = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}  #: size and time of each file at its last upload
        self._parts: dict[str, int] | None = None  #: uploaded bytes of each part; None: unknown
        self._work: Background[None] | None = None
        self._is_claimed = False
        self._lost: RunLockedError | None = None
        self._renewed = 0.0  #: monotonic clock, s
        self._lock = threading.Lock()  # between the uploading thread and the thread that ends the run

    def begin(self, check_cancelled: CheckCancelled) -> None:
        """Lock the copy for this machine and start uploading; raises RunLockedError."""
        self._claim()
        self._push(check_cancelled, is_last=False)
        check_cancelled()
        self._work = Background("mirror", self._keep).start()

    def raise_if_lost(self) -> None:
        """Raise RunLockedError when another machine has taken the run over because this machine's lock was stale."""
        if self._lost is not None:
            raise self._lost

    def finish(self, check_cancelled: CheckCancelled) -> None:
        """Upload all changes; raises OutputError when the store rejects them."""
        self._stop()
        self._push(check_cancelled, is_last=True)

    def close(self) -> None:
        """Upload what can be uploaded within seconds, and release the lock."""
        self._stop()
        if not self._is_claimed or self._lost is not None:
            return
        if self._directory.path.exists():
            self._push_for_some_seconds()
        with suppress(OutputError, FileNotFoundError):  # the run's own error matters more; after finish() all is uploaded
            if _read_owner(self._url).get("token") == self._token:
                objects.write(f"{self._url}/{_LOCK}", json.dumps({"token": self._token, "released": True}).encode())

    def discard(self) -> None:
        """Delete the copy of a run that was never started."""
        self._stop()
        self._is_claimed = False
        objects.remove_below(self._url)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.stop()

    def _push_for_some_seconds(self) -> None:
        check_cancelled = cancelled_after(_LAST_PUSH)
        with suppress(OutputError, RunLockedError, OSError, Cancelled):  # a partial upload is consistent
            Background("mirror", lambda _: self._push(check_cancelled, is_last=True)).wait(check_cancelled)

    def _claim(self) -> None:
        owner = _read_owner(self._url)
        is_ours = owner.get("host") == socket.gethostname() and owner.get("path") == str(self._directory.path)
        if _is_active(owner) and not is_ours:
            raise RunLockedError(self._url, f"process {owner['pid']}", owner["host"])
        with (self._directory.path / _TOKEN).open("a") as file:  # first: if this process dies here, the older tokens stay valid
            file.write(f"{self._token}\n")
        try:
            objects.write(f"{self._url}/{_LOCK}", self._lock_content(), only_new=not owner)
        except FileExistsError:
            raise RunLockedError(self._url, "another process", "another host") from None
        self._is_claimed, self._renewed = True, time.monotonic()
        self._raise_if_taken()  # race: of two processes that found a free lock, the last writer owns it

    def _raise_if_taken(self) -> None:
        owner = _read_owner(self._url)
        if owner.get("token") != self._token:
            self._lost = RunLockedError(self._url, f"process {owner.get('pid', '?')}", str(owner.get("host", "?")))
            raise self._lost

    def _lock_content(self) -> bytes:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "path": str(self._directory.path), "at": time.time()}
        return json.dumps({"token": self._token, **owner}).encode()

    def _renew(self) -> None:
        """Renew the lock when that is due; raises RunLockedError when another machine has taken it."""
        if self._is_claimed and time.monotonic() - self._renewed >= _RENEWED_EVERY:
            self._raise_if_taken()
            objects.write(f"{self._url}/{_LOCK}", self._lock_content())
            self._renewed = time.monotonic()

    def _keep(self, check_cancelled: CheckCancelled) -> None:
        due = time.monotonic() + _EVERY
        while True:
            check_cancelled()
            time.sleep(_POLL)
            if time.monotonic() < due:
                continue
            try:
                self._raise_if_taken()
                self._push(check_cancelled, is_last=False)
            except RunLockedError:
                return  # raise_if_lost() reports it in the run's own thread
            except Exception as error:  # noqa: BLE001  any error is logged, and the upload retried
                self._warn(f"cannot update the copy of the run directory: {type(error).__name__}: {error}; retrying later")
            due = time.monotonic() + _EVERY

    def _push(self, check_cancelled: CheckCancelled, *, is_last: bool) -> None:
        directory = self._directory
        with self._lock, tempfile.TemporaryDirectory(prefix="parallel_run_mirror_") as folder:
            snapshot = Path(folder, "ledger.sqlite")
            _copy_ledger(directory.ledger, snapshot)
            with Ledger(snapshot) as ledger:
                committed = ledger.committed_bytes()
            self._send(directory.description, check_cancelled)
            if directory.plan.exists():
                self._send(directory.plan, check_cancelled)
            elif directory.spool.exists():
                growing = Path(folder, directory.spool.name)
                shutil.copyfile(directory.spool, growing)
                objects.upload(growing, f"{self._url}/{growing.name}", check_cancelled)
            for part, size in sorted(committed.items()):
                self._send_part(directory.parts / part, size, check_cancelled)
            objects.upload(snapshot, f"{self._url}/ledger.sqlite", check_cancelled)
            if is_last:
                for path in (*sorted(directory.logs.iterdir()), directory.failed_items, directory.report, directory.receipt):
                    self._send(path, check_cancelled)

    def _send(self, path: Path, check_cancelled: CheckCancelled) -> None:
        """Upload a file if it exists and has changed since its last upload."""
        check_cancelled()
        if not path.exists():
            return
        status, name = path.stat(), str(path.relative_to(self._directory.path))
        version = (status.st_size, status.st_mtime_ns)
        if self._sent.get(name) != version:
            if status.st_size or path.parent != self._directory.logs:  # there may be thousands of empty logs
                self._renew()
                objects.upload(path, f"{self._url}/{name}", check_cancelled)
            self._sent[name] = version

    def _send_part(self, part: Path, size: int, check_cancelled: CheckCancelled) -> None:
        """Upload the new bytes among the *size* committed bytes of a part."""
        if self._parts is None:
            self._parts = self._uploaded_parts()
        offset = self._parts.get(part.name, 0)
        with part.open("rb") as file:
            file.seek(offset)
            while offset < size:
                check_cancelled()
                self._renew()
                piece = file.read(min(_PIECE, size - offset))
                objects.write(f"{self._url}/parts/{part.name}.{offset:0{_DIGITS}d}", piece)
                offset += len(piece)
                self._parts[part.name] = offset

    def _uploaded_parts(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, size in objects.names_below(f"{self._url}/parts").items():
            part, _, offset = name.rpartition(".")
            sizes[part] = max(sizes.get(part, 0), int(offset) + size)
        return sizes


def _read_owner(url: str) -> dict[str, Any]:
    """Return the content of lock.json in the copy at *url*; empty if there is none."""
    try:
        owner: dict[str, Any] = json.loads(objects.read(f"{url}/{_LOCK}"))
    except FileNotFoundError:
        return {}
    return owner


def _is_active(owner: dict[str, Any]) -> bool:
    """True when the owner in a lock.json has not released the lock and has renewed it recently."""
    return bool(owner) and not owner.get("released") and time.time() - owner["at"] < _STALE


def has_complete_copy(directory: RunDirectory) -> bool:
    """False for a run that this machine executed, whose copy in the store may be incomplete."""
    return not (directory.path / _TOKEN).exists()


def pull_runs(url: str, prefix: str, runs: Path, check_cancelled: CheckCancelled = never_cancelled) -> None:
    """Fetch the run directories below *url* whose names begin with *prefix* into *runs*, unless the local ones are newer.

    For a finished run only the files that decide about its reuse are fetched, for others all that a resume needs.
    """
    for name in objects.names_below(url):
        if name.startswith(prefix) and name.endswith("/"):
            pull(f"{url}/{name[:-1]}", runs / name[:-1], check_cancelled, everything=False)


def pull(
    url: str, path: Path, check_cancelled: CheckCancelled = never_cancelled, *, everything: bool = True, parts: bool = True
) -> None:
    """Fetch the run directory at *url* to *path*, unless the local one is the newest; *check_cancelled* may stop it.

    Without *parts* the run can only be inspected; anything else needs another call.
    """
    names = objects.names_below(url)
    if _DESCRIPTION not in names or _is_newest(url, path):
        return
    temporary = path.with_name(f".pulling-{uuid.uuid4().hex}")
    try:
        directory = RunDirectory(temporary)
        directory.make()
        is_whole = everything or _RECEIPT not in names
        for name in (_WHOLE if is_whole else _DIGEST) & names.keys():
            check_cancelled()
            objects.download(f"{url}/{name}", temporary / name)
        if is_whole and parts:
            _pull_parts(f"{url}/parts", directory.parts, check_cancelled)
        created = calendar.timegm(time.strptime(read_json(directory.description)["created"], "%Y-%m-%dT%H:%M:%SZ"))
        os.utime(directory.description, (created, created))  # runs are sorted by this time
        _replace(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(path: Path, newer: Path) -> None:
    """Replace an older copy of a run directory, unless a process of this machine has locked it."""
    if not path.exists():
        newer.rename(path)
        return
    with suppress(RunLockedError), RunDirectory(path).lock():
        old = path.with_name(f".old-{uuid.uuid4().hex}")
        path.rename(old)
        newer.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _pull_parts(url: str, folder: Path, check_cancelled: CheckCancelled) -> None:
    for name in sorted(objects.names_below(url)):  # in order of offsets
        check_cancelled()
        with (folder / name.rpartition(".")[0]).open("ab") as part:
            part.write(objects.read(f"{url}/{name}"))


def _is_newest(url: str, path: Path) -> bool:
    """True when the copy at *url* was made from the run directory in *path*."""
    try:
        tokens = (path / _TOKEN).read_text().split()
    except FileNotFoundError:
        return False
    return _read_owner(url).get("token") in tokens


def _copy_ledger(source: Path, target: Path) -> None:
    address = f"{source.as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as ledger, closing(sqlite3.connect(target)) as copy:
            ledger.backup(copy)
    except sqlite3.Error as error:
        raise OutputError(str(source), f"cannot be copied: {error}") from error


def run_names(output: str) -> list[str]:
    """Return the names of the runs of an output (a URL without a trailing slash), newest first."""
    names = [name.rstrip("/") for name in objects.names_below(f"{output}/{RUNS_FOLDER}") if name.endswith("/")]
    return sorted(names, key=lambda name: name.rsplit("-", 2)[1:], reverse=True)  # they end in time and token


def active_owner(url: str) -> dict[str, Any] | None:
    """Return ``pid`` and ``host`` of the process that executes the run whose copy is at *url*, or None if its lock is stale."""
    owner = _read_owner(url)
    return {"pid": owner["pid"], "host": owner["host"]} if _is_active(owner) else None
