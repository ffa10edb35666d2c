"""Fetches objects of a store to local files before a mini-batch runs, and those of the next mini-batches meanwhile.

A lease starts to fetch when it arrives at the node, while the slots are still busy with earlier leases.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.child.failure import fingerprint
from prefect_parallel_run.child.storage import InputChanged, StoreFailure, check, is_remote, store_of
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.node.slot import RecallRequest, Work

_AHEAD = 2  #: mini-batches of a lease whose files are fetched or being fetched before they run
_POLL_INTERVAL = 0.05  #: s between two checks whether the run has ended
_LONGEST_NAME = 255  #: bytes, a file system's limit


class Fetched(NamedTuple):
    """A mini-batch whose files are on this machine's disk, or the error that prevented it."""

    work: Work
    folder: Path
    error: InputChanged | StoreFailure | None

    def receipt(self, node: str) -> Receipt:
        """Return the receipt of a mini-batch that cannot be run."""
        changed = isinstance(self.error, InputChanged)  # the plan is frozen: another attempt cannot help
        error_type = type(self.error).__name__
        return Receipt.of_failure(
            self.work.mini_batch,
            self.work.attempt,
            Outcome.INPUT_CHANGED if changed else Outcome.RAISED,
            started=time.time(),
            seconds=0.0,
            node=node,
            pid=os.getpid(),
            error_type=error_type,
            error=str(self.error),
            fingerprint=fingerprint(error_type),
            final=changed,
        )

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class LeaseFiles:
    """Fetches the files of a lease's mini-batches to *scratch*, in order, from its creation on."""

    def __init__(self, works: Sequence[Work], scratch: str) -> None:
        self._works = works
        self._scratch = Path(tempfile.mkdtemp(prefix="fetched.", dir=scratch))
        self._ready: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._closed = threading.Event()
        threading.Thread(target=self._fetch, name="fetch", daemon=True).start()

    def each(self, raise_if_stopping: Callable[[], None], recall: RecallRequest) -> Iterator[Fetched]:
        """Yield the mini-batches as their files arrive, until *recall* is answered.

        *raise_if_stopping* is polled while waiting; mini-batches that have not arrived when *recall* is requested are
        returned.
        """
        for work in self._works:
            fetched = self._next(raise_if_stopping, recall)
            if recall.is_pending:
                recall.answer(work.mini_batch)
            if fetched is None or recall.is_answered:
                return
            yield fetched

    def close(self) -> None:
        """Stop fetching, and remove the files."""
        self._closed.set()
        self._room.release()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _next(self, raise_if_stopping: Callable[[], None], recall: RecallRequest) -> Fetched | None:
        while not recall.is_pending and not recall.is_answered:
            try:
                fetched = self._ready.get(timeout=_POLL_INTERVAL)
            except queue.Empty:
                raise_if_stopping()
            else:
                self._room.release()
                return fetched
        return None

    def _fetch(self) -> None:
        for number, work in enumerate(self._works):
            self._room.acquire()
            if self._closed.is_set():
                return
            fetched = _fetched(work, self._scratch / str(number))
            self._ready.put(fetched)
            if self._closed.is_set():  # close() may have removed the folder while this one was fetched
                fetched.remove()


def _fetched(work: Work, folder: Path) -> Fetched:
    index, attempt, items, *piece = json.loads(work.line)
    if not is_fetched(items):
        return Fetched(work, folder, None)
    if piece:
        start, stop = piece[0]
        items = {**items, **{key: items[key][start:stop] for key in ("names", "sizes", "versions")}}
    try:
        local = fetch(items, folder)
    except (InputChanged, StoreFailure) as error:
        return Fetched(work, folder, error)
    line = json.dumps([index, attempt, local], separators=(",", ":")).encode("ascii") + b"\n"
    return Fetched(Work(index, attempt, line), folder, None)


def is_fetched(items: dict[str, Any]) -> bool:
    """True for a mini-batch of objects in a store, which have to be fetched."""
    return items["kind"] == "files" and is_remote(items["root"])


def fetch(items: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Copy the objects of a mini-batch to files in *folder*; return the work of a mini-batch of those files.

    Raises:
        InputChanged: An object has changed since planning.
        StoreFailure: The store failed to return an object.
    """
    # A folder for each: names may differ only in their folders, and one may be another's folder.
    names = [f"{number}/{local_name(name)}" for number, name in enumerate(items["names"])]
    copies = _copy(items, [folder / name for name in names])
    return {**items, **copies, "root": f"{folder}/", "names": names}


def _copy(items: dict[str, Any], paths: list[Path]) -> dict[str, list[Any]]:
    """Fetch objects to *paths*, and return sizes and versions of the copies, and the URLs of the objects."""
    urls = [items["root"] + name for name in items["names"]]
    try:
        store = store_of(urls[0])[0]
        for path in paths:
            path.parent.mkdir(parents=True)
        with suppress(FileNotFoundError):  # the check below names the missing object
            store.get([store_of(url)[1] for url in urls], [str(path) for path in paths])  # together, if the store supports it
        # Checked afterwards: an object that still has the planned version had it during the copy.
        for url, size, version in zip(urls, items["sizes"], items["versions"], strict=True):
            check(url, size, version)
        stats = [path.stat() for path in paths]
    except InputChanged:
        raise
    except Exception as error:  # the exceptions of store libraries have no common class
        message = f"cannot fetch {urls[0]} or another object of its mini-batch: {type(error).__name__}: {error}"
        raise StoreFailure(message) from error
    return {"sizes": [stat.st_size for stat in stats], "versions": [stat.st_mtime_ns for stat in stats], "urls": urls}


def local_name(name: str) -> str:
    """Return a safe name of a local file for an object: its last segment, escaped or hashed if necessary.

    >>> local_name("a/b/c.png"), local_name("a/..")
    ('c.png', '%2E%2E')
    """
    last = name.rpartition("/")[2]
    if last in (".", ".."):
        return last.replace(".", "%2E")
    if len(os.fsencode(last)) > _LONGEST_NAME:
        suffix = Path(last).suffix
        return hashlib.sha256(os.fsencode(last)).hexdigest() + (suffix if len(suffix) < 20 else "")
    return last
