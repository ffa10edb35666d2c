"""A run directory in a store: a copy of the one on this machine's disk, from which another machine can go on.

The run works in a folder of this machine. Now and then what is new there goes up, in an order that keeps the copy consistent: a
snapshot of the ledger is taken, then what it names of the parts goes up, then the snapshot. So whatever the ledger up there
names is up there too, and nothing goes up that may yet change. Parts only grow, and objects cannot: a part is a series of
objects, ``parts/NAME.OFFSET``.

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

from prefect_parallel_run._threads import Background, Cancelled
from prefect_parallel_run.errors import OutputError, RunLockedError
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory, read_json
from prefect_parallel_run.storage import objects

_EVERY = 30.0  #: s between two times that what is new goes up
_GLANCE = 0.25  #: s between two looks whether the run is over
_RENEWED_EVERY = 15.0  #: s between two signs of life while something goes up
_LAST_PUSH = 4.0  #: s for what is new to go up when a run has ended before its time
_STALE = 4 * _EVERY  #: s after which a driver that gives no sign of life counts as dead
_PIECE = 64 << 20  #: bytes of a part in one object at most
_DIGITS = 15  #: of the offset in the name of a piece
_DESCRIPTION, _RECEIPT, _LOCK, _TOKEN = "run.json", "receipt.json", "lock.json", "mirror-token"
_DIGEST = {_DESCRIPTION, _RECEIPT}  #: tells of a finished run whether it is the same
_WHOLE = _DIGEST | {"plan.parquet", "plan.spool", "ledger.sqlite", "failed_items.jsonl"}


CheckCancelled = Callable[[], None]


class RunMirror:
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
        self._parts: dict[str, int] | None = None  #: bytes of each part that are up; None: not known yet
        self._work: Background[None] | None = None
        self._is_claimed = False
        self._lost: RunLockedError | None = None
        self._renewed = 0.0  #: monotonic clock, s
        self._lock = threading.Lock()  # between the thread that keeps the copy and the one that ends the run

    def begin(self, check_cancelled: CheckCancelled) -> None:
        """Take the run for this machine, and keep its copy up to date from now on; raises RunLockedError."""
        self._claim()
        self._push(check_cancelled, is_last=False)
        check_cancelled()
        self._work = Background("mirror", self._keep).start()

    def raise_if_lost(self) -> None:
        """Raise RunLockedError when another machine has taken the run over: it heard nothing of this one for too long."""
        if self._lost is not None:
            raise self._lost

    def finish(self, check_cancelled: CheckCancelled) -> None:
        """Bring all up; raises OutputError when the store does not take it."""
        self._stop()
        self._push(check_cancelled, is_last=True)

    def close(self) -> None:
        """Bring up what is new, as far as that goes in some seconds, and give the run up."""
        self._stop()
        if not self._is_claimed or self._lost is not None:
            return
        if self._directory.path.exists():
            self._push_for_some_seconds()
        with suppress(OutputError, FileNotFoundError):  # the run has ended with an error of its own, or all is up already
            if self._holder().get("token") == self._token:
                objects.write(f"{self._url}/{_LOCK}", json.dumps({"token": self._token, "released": True}).encode())

    def discard(self) -> None:
        """Remove the copy: the run was never begun."""
        self._stop()
        self._is_claimed = False
        objects.remove_below(self._url)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.stop()

    def _push_for_some_seconds(self) -> None:
        deadline = time.monotonic() + _LAST_PUSH

        def check_cancelled() -> None:
            if time.monotonic() > deadline:
                raise Cancelled

        with suppress(OutputError, RunLockedError, OSError, Cancelled):  # what is up is consistent, however far it came
            Background("mirror", lambda _: self._push(check_cancelled, is_last=True)).wait(check_cancelled)

    def _holder(self) -> dict[str, Any]:
        try:
            held: dict[str, Any] = json.loads(objects.read(f"{self._url}/{_LOCK}"))
        except FileNotFoundError:
            return {}
        return held

    def _claim(self) -> None:
        held = self._holder()
        is_ours = held.get("host") == socket.gethostname() and held.get("path") == str(self._directory.path)
        if is_held(held) and not is_ours:
            raise RunLockedError(self._url, f"process {held['pid']}", held["host"])
        with (self._directory.path / _TOKEN).open("a") as file:  # first: should we end here, the older tokens still count
            file.write(f"{self._token}\n")
        try:
            objects.write(f"{self._url}/{_LOCK}", self._claimed(), only_new=not held)
        except FileExistsError:
            raise RunLockedError(self._url, "another process", "another host") from None
        self._is_claimed, self._renewed = True, time.monotonic()
        self._raise_if_taken()  # two that found a lock that nobody held: the one that wrote last has it

    def _raise_if_taken(self) -> None:
        held = self._holder()
        if held.get("token") != self._token:
            self._lost = RunLockedError(self._url, f"process {held.get('pid', '?')}", str(held.get("host", "?")))
            raise self._lost

    def _claimed(self) -> bytes:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "path": str(self._directory.path), "at": time.time()}
        return json.dumps({"token": self._token, **owner}).encode()

    def _renew(self) -> None:
        """Say that this machine still drives the run, now and then; raises RunLockedError when another one does."""
        if self._is_claimed and time.monotonic() - self._renewed >= _RENEWED_EVERY:
            self._raise_if_taken()
            objects.write(f"{self._url}/{_LOCK}", self._claimed())
            self._renewed = time.monotonic()

    def _keep(self, check_cancelled: CheckCancelled) -> None:
        due = time.monotonic() + _EVERY
        while True:
            check_cancelled()
            time.sleep(_GLANCE)
            if time.monotonic() < due:
                continue
            try:
                self._raise_if_taken()
                self._push(check_cancelled, is_last=False)
            except RunLockedError:
                return  # the run's own thread finds out
            except Exception as error:  # noqa: BLE001  whatever it was: it is told, and tried again
                self._warned(f"{type(error).__name__}: {error}; the copy of the run directory is brought up to date later")
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
        """Bring a file up, if it is there and is not what went up before."""
        check_cancelled()
        if not path.exists():
            return
        status, name = path.stat(), str(path.relative_to(self._directory.path))
        known = (status.st_size, status.st_mtime_ns)
        if self._sent.get(name) != known:
            if status.st_size or path.parent != self._directory.logs:  # of empty logs there may be thousands
                self._renew()
                objects.upload(path, f"{self._url}/{name}", check_cancelled)
            self._sent[name] = known

    def _send_part(self, part: Path, size: int, check_cancelled: CheckCancelled) -> None:
        """Bring up what is new of the *size* bytes of a part that are committed."""
        if self._parts is None:
            self._parts = self._parts_there()
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

    def _parts_there(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, size in objects.names_below(f"{self._url}/parts").items():
            part, _, offset = name.rpartition(".")
            found[part] = max(found.get(part, 0), int(offset) + size)
        return found


def is_held(held: dict[str, Any]) -> bool:
    """True when who is named in a lock.json has not given the run up, and has given a sign of life of late."""
    return bool(held) and not held.get("released") and time.time() - held["at"] < _STALE


def is_copied(directory: RunDirectory) -> bool:
    """False for a run that this machine drove, and whose copy may not be whole."""
    return not (directory.path / _TOKEN).exists()


def pull_runs(url: str, prefix: str, runs: Path, check_cancelled: CheckCancelled = lambda: None) -> None:
    """Bring the run directories below *url* whose names begin with *prefix* into *runs*, where they are not the newest already.

    Of finished runs comes what tells whether they are the same, of others all that is needed to go on.
    """
    for name in objects.names_below(url):
        if name.startswith(prefix) and name.endswith("/"):
            pull(f"{url}/{name[:-1]}", runs / name[:-1], check_cancelled, everything=False)


def pull(
    url: str, path: Path, check_cancelled: CheckCancelled = lambda: None, *, everything: bool = True, parts: bool = True
) -> None:
    """Bring the run directory at *url* to *path*, unless this machine drove what is there last; *check_cancelled* may stop it.

    Without *parts* it can be looked at, and no more; whoever wants more pulls again.
    """
    there = objects.names_below(url)
    if _DESCRIPTION not in there or _drove_last(url, path):
        return
    beside = path.with_name(f".pulling-{uuid.uuid4().hex}")
    try:
        directory = RunDirectory(beside)
        directory.make()
        whole = everything or _RECEIPT not in there
        for name in (_WHOLE if whole else _DIGEST) & there.keys():
            check_cancelled()
            objects.download(f"{url}/{name}", beside / name)
        if whole and parts:
            _pull_parts(f"{url}/parts", directory.parts, check_cancelled)
        created = calendar.timegm(time.strptime(read_json(directory.description)["created"], "%Y-%m-%dT%H:%M:%SZ"))
        os.utime(directory.description, (created, created))  # runs are looked at from the newest on
        _replace(path, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(path: Path, newer: Path) -> None:
    """Put a run directory in the place of an older copy of it; one that a process of this machine drives stays."""
    if not path.exists():
        newer.rename(path)
        return
    with suppress(RunLockedError), RunDirectory(path).lock():
        old = path.with_name(f".old-{uuid.uuid4().hex}")
        path.rename(old)
        newer.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def _pull_parts(url: str, folder: Path, check_cancelled: CheckCancelled) -> None:
    for name in sorted(objects.names_below(url)):  # the offsets of a part in order
        check_cancelled()
        with (folder / name.rpartition(".")[0]).open("ab") as part:
            part.write(objects.read(f"{url}/{name}"))


def _drove_last(url: str, path: Path) -> bool:
    """True when the run directory in *path* is the one that the copy at *url* was made from."""
    try:
        tokens = (path / _TOKEN).read_text().split()
        return json.loads(objects.read(f"{url}/{_LOCK}"))["token"] in tokens
    except FileNotFoundError:
        return False


def _copy_ledger(source: Path, target: Path) -> None:
    address = f"{source.as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as ledger, closing(sqlite3.connect(target)) as copy:
            ledger.backup(copy)
    except sqlite3.Error as error:
        raise OutputError(str(source), f"cannot be copied: {error}") from error
