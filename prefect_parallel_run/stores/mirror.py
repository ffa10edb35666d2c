"""A run directory in a store: a copy of the one on this machine's disk, from which another machine can go on.

The run works in a folder of this machine. Now and then what is new there goes up, in an order that keeps the copy consistent: a
snapshot of the ledger is taken, then the parts go up as they are, then the snapshot. So whatever the ledger up there names is
up there too. Parts only grow, and objects cannot: a part is a series of objects, ``parts/NAME.OFFSET``.

``lock.json`` says who drives the run, under a token that the folder on disk has too: the copy of the machine that drove it last
is the newest.
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

from prefect_parallel_run.background import Background
from prefect_parallel_run.errors import OutputError, RunLockedError
from prefect_parallel_run.run_directory import RunDirectory, read_json
from prefect_parallel_run.stores import objects

_EVERY = 30.0  #: s between two times that what is new goes up
_GLANCE = 0.25  #: s between two looks whether the run is over
_STALE = 4 * _EVERY  #: s after which a driver that gives no sign of life counts as dead
_PIECE = 64 << 20  #: bytes of a part in one object at most
_DIGITS = 15  #: of the offset in the name of a piece
_DESCRIPTION, _RECEIPT, _LOCK, _TOKEN = "run.json", "receipt.json", "lock.json", "mirror-token"
_DIGEST = {_DESCRIPTION, _RECEIPT}  #: tells of a finished run whether it is the same
_WHOLE = _DIGEST | {"plan.parquet", "plan.spool", "ledger.sqlite", "failed_items.jsonl"}


class Mirror:
    """Keeps the copy of one run directory up to date.

    Args:
        directory: On this machine.
        url: Of its copy.
        warned: Told when something could not go up; it is tried again.
    """

    def __init__(self, directory: RunDirectory, url: str, warned: Callable[[str], None]) -> None:
        self._directory, self._url, self._warned = directory, url, warned
        self._token = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}  #: size and time of each file as it went up last
        self._parts: dict[str, int] = {}  #: bytes of each part that are up
        self._work: Background[None] | None = None
        self._lock = threading.Lock()  # between the thread that keeps the copy and the one that ends the run

    def begin(self) -> None:
        """Take the run for this machine, and keep its copy up to date from now on; raises RunLockedError."""
        self._claim()
        for name, size in objects.names_below(f"{self._url}/parts").items():
            part, _, offset = name.rpartition(".")
            self._parts[part] = max(self._parts.get(part, 0), int(offset) + size)
        self._push(is_last=False)
        self._work = Background("mirror", self._keep)

    def finish(self) -> None:
        """Bring all up; raises OutputError when the store does not take it."""
        self._stop()
        self._push(is_last=True)

    def close(self) -> None:
        """Bring up what is new, as far as the store takes it, and give the run up."""
        if self._work is None:
            return
        self._stop()
        with suppress(OutputError):  # the run has ended with an error of its own, or all is up already
            if self._directory.path.exists():
                self._push(is_last=True)
            objects.write(f"{self._url}/{_LOCK}", json.dumps({"token": self._token, "released": True}).encode())

    def discard(self) -> None:
        """Remove the copy: the run was never begun."""
        self._stop()
        self._work = None
        objects.remove_below(self._url)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.stop()

    def _claim(self) -> None:
        url = f"{self._url}/{_LOCK}"
        try:
            held: dict[str, Any] = json.loads(objects.read(url))
        except FileNotFoundError:
            held = {}
        if held and not held.get("released") and not _is_ours(held) and time.time() - held["at"] < _STALE:
            raise RunLockedError(self._url, f"process {held['pid']}", held["host"])
        try:
            objects.write(url, self._claimed(), only_new=not held)
        except FileExistsError:
            raise RunLockedError(self._url, "another process", "another host") from None
        (self._directory.path / _TOKEN).write_text(self._token)

    def _claimed(self) -> bytes:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}
        return json.dumps({"token": self._token, **owner}).encode()

    def _keep(self, beat: Callable[[], None]) -> None:
        due = time.monotonic() + _EVERY
        while True:
            beat()
            time.sleep(_GLANCE)
            if time.monotonic() >= due:
                try:
                    objects.write(f"{self._url}/{_LOCK}", self._claimed())
                    self._push(is_last=False)
                except OutputError as error:
                    self._warned(f"{error}; it is tried again")
                due = time.monotonic() + _EVERY

    def _push(self, *, is_last: bool) -> None:
        directory = self._directory
        with self._lock, tempfile.TemporaryDirectory(prefix="parallel_run_mirror_") as folder:
            snapshot = Path(folder, "ledger.sqlite")
            _copy_ledger(directory.ledger, snapshot)
            plan = directory.plan if directory.plan.exists() else directory.spool
            for path in (directory.description, plan):
                self._send(path, path.name)
            for part in sorted(directory.parts.iterdir()):
                self._send_part(part)
            objects.upload(snapshot, f"{self._url}/ledger.sqlite")
            if is_last:
                for path in (*sorted(directory.logs.iterdir()), directory.failed_items, directory.receipt):
                    self._send(path, str(path.relative_to(directory.path)))

    def _send(self, path: Path, name: str) -> None:
        """Bring a file up, if it is there and is not what went up before."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        known = (status.st_size, status.st_mtime_ns)
        if self._sent.get(name) != known:
            if status.st_size or path.parent != self._directory.logs:  # of empty logs there may be thousands
                objects.upload(path, f"{self._url}/{name}")
            self._sent[name] = known

    def _send_part(self, part: Path) -> None:
        size, offset = part.stat().st_size, self._parts.get(part.name, 0)
        with part.open("rb") as file:
            file.seek(offset)
            while offset < size:
                piece = file.read(min(_PIECE, size - offset))
                objects.write(f"{self._url}/parts/{part.name}.{offset:0{_DIGITS}d}", piece)
                offset += len(piece)
                self._parts[part.name] = offset


def pull_runs(url: str, prefix: str, runs: Path) -> None:
    """Bring the run directories below *url* whose names begin with *prefix* into *runs*, where they are not the newest already.

    Of finished runs comes what tells whether they are the same, of others all that is needed to go on.
    """
    for name in objects.names_below(url):
        if name.startswith(prefix) and name.endswith("/"):
            pull(f"{url}/{name[:-1]}", runs / name[:-1], everything=False)


def pull(url: str, path: Path, *, everything: bool = True) -> None:
    """Bring the run directory at *url* to *path*, unless what is there was driven by this machine last."""
    there = objects.names_below(url)
    if _DESCRIPTION not in there or _drove_last(url, path):
        return
    beside = path.with_name(f".pulling-{uuid.uuid4().hex}")
    try:
        directory = RunDirectory(beside)
        directory.make()
        whole = everything or _RECEIPT not in there
        for name in (_WHOLE if whole else _DIGEST) & there.keys():
            objects.download(f"{url}/{name}", beside / name)
        if whole:
            _pull_parts(f"{url}/parts", directory.parts)
        created = calendar.timegm(time.strptime(read_json(directory.description)["created"], "%Y-%m-%dT%H:%M:%SZ"))
        os.utime(directory.description, (created, created))  # runs are looked at from the newest on
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _pull_parts(url: str, folder: Path) -> None:
    for name in sorted(objects.names_below(url)):  # the offsets of a part in order
        with (folder / name.rpartition(".")[0]).open("ab") as part:
            part.write(objects.read(f"{url}/{name}"))


def _drove_last(url: str, path: Path) -> bool:
    """True when the run directory in *path* is the one that the copy at *url* was made from."""
    try:
        token = (path / _TOKEN).read_text()
        return bool(json.loads(objects.read(f"{url}/{_LOCK}"))["token"] == token)
    except FileNotFoundError:
        return False


def _is_ours(held: dict[str, Any]) -> bool:
    """True when the lock is that of a process of this machine; the lock of the folder on disk says whether it still lives."""
    return bool(held["host"] == socket.gethostname())


def _copy_ledger(source: Path, target: Path) -> None:
    address = f"{source.as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as ledger, closing(sqlite3.connect(target)) as copy:
            ledger.backup(copy)
    except sqlite3.Error as error:
        raise OutputError(str(source), f"cannot be copied: {error}") from error
