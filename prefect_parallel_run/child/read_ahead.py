"""Prepares the next mini-batch while run() works on the current one, so that run() need not wait for disk or store.

For files, the kernel is asked to read the first bytes. For tables, a thread puts the data into memory if it comes from a store
or the process may use several threads: otherwise decoding would only take the core from run(). No thread is used if the memory
of the process is limited. The readers of text and Parquet on a local disk ask the kernel for the bytes behind those of the
mini-batch, which are probably those of the next one.

Invariant: the thread and the process' own reading never overlap, and what the thread does changes no result. ``Reader.read``
uses the data if it is that of its mini-batch, and it was checked like data that is read there. An error in the thread is
dropped: the attempt that needs the data reads it again and gets its own.
"""

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from .reading import Reader
from .storage import is_remote, request

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_SHORTEST = 0.001  #: s for a file or table; preparing a file costs about 1 % of this, a table in a thread about 10 %
_FIRST_BYTES = 1 << 20  #: requested from each file; a script that needs more soon reads faster than the kernel reads ahead
_FORK_WAIT = 5.0  #: s: a fork does not wait longer for a store that does not answer
_THREAD = "read-ahead"


class ReadAhead:
    """Wraps *reader*: ``read`` returns the same items, and then begins to prepare the next mini-batch.

    Args:
        next_message: Returns the next message from the slot, or None (channel.py).
        uses_memory: The data of tables may be kept in memory.
    """

    def __init__(self, reader: Reader, next_message: Callable[[], Any], *, uses_memory: bool = True) -> None:
        self._reader, self._next_message, self._uses_memory = reader, next_message, uses_memory
        self._has_spare_core = os.environ.get("OMP_NUM_THREADS", "1") != "1"  # set by the node to the process' share of cores
        self._executor: Optional[ThreadPoolExecutor] = None
        self._preparing: Optional[Future[None]] = None
        self._hanging: Optional[Future[None]] = None  # a fork has waited for it
        self._last = time.monotonic()  # when a mini-batch was read

    def read(self, work: Dict[str, Any], piece: Optional[List[int]] = None) -> Any:
        """Return the items of *work* as ``Reader.read`` does, and begin to prepare the next mini-batch."""
        self._wait()
        items = self._reader.read(work, piece)
        last, self._last = self._last, time.monotonic()
        if self._last - last >= _SHORTEST:
            self._prepare_next(self._last - last)
        return items

    def _prepare_next(self, seconds: float) -> None:
        """Begin to prepare the next mini-batch if it has arrived and is worth preparing; the last one took *seconds*."""
        message = self._next_message()
        if not isinstance(message, list) or not isinstance(message[0], int):  # not a mini-batch
            return
        work: Dict[str, Any] = message[2]
        if work["kind"] == "files":
            if seconds >= _SHORTEST * len(work["names"]):
                for name, size in zip(work["names"], work["sizes"]):
                    request(work["root"] + name, 0, min(size, _FIRST_BYTES))
        elif self._uses_memory and (self._has_spare_core or _is_in_store(work)):
            self._preparing = self._thread().submit(self._reader.prepare, work)

    def _wait(self, seconds: Optional[float] = None) -> None:
        """Wait until nothing is being prepared, or for *seconds*."""
        preparing = self._preparing
        if preparing is not None and not threading.current_thread().name.startswith(_THREAD):
            from concurrent.futures import wait  # noqa: PLC0415  most processes never need it

            wait([preparing], seconds)

    def _wait_before_fork(self) -> None:
        """Wait, so that a fork of the script does not find a library in the middle of a call; once for a store that hangs."""
        if self._preparing is not self._hanging:
            self._wait(_FORK_WAIT)
            self._hanging = self._preparing

    def _thread(self) -> "ThreadPoolExecutor":
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  most processes never need it

            self._executor = ThreadPoolExecutor(1, _THREAD)
            os.register_at_fork(before=self._wait_before_fork)
        return self._executor


def _is_in_store(work: Dict[str, Any]) -> bool:
    return is_remote(work["tables"][0]["path"] if work["kind"] == "tables" else work["path"])
