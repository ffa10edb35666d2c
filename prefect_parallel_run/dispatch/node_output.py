"""Fetches rows and logs from nodes that cannot access the run directory. Local part files are byte-for-byte copies.

Data is transferred in pieces, so that neither the scheduler nor the flow process holds all rows of a lease. It is
synced to disk before the lease's receipts are handled: committed rows must survive a power cut.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distributed import Client

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.dispatch.workers import ask_worker
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.log_files import LogBatch
from prefect_parallel_run.node.rpc import list_logs, read_file
from prefect_parallel_run.runs.events import ScriptLogged

_PIECE = 4 << 20  #: bytes in one message
_MAX_LOG = 1 << 20  #: bytes to fetch from the end of a process log
_SHORT_FILES = (".processes.jsonl", ".resources.csv")  #: short files that the node itself writes
_MAX_MESSAGES = 1_000  #: messages per run


class TransferError(Exception):
    """Fetching from a node failed; the argument says why."""


class RemoteFiles:
    """Fetches files from the nodes of one run.

    Args:
        client: Dask client of the cluster.
        token: Identifies the run on the nodes.
        run_directory: Local run directory to write to.
    """

    def __init__(self, client: Client, token: str, run_directory: str) -> None:
        self._client, self._token, self._folder = client, token, Path(run_directory)

    async def fetch_rows(self, address: str, receipts: Iterable[Receipt]) -> None:
        """Copy the rows of *receipts* into local part files and sync them to disk.

        Raises:
            TransferError: The node is lost or closed.
            OSError: The local disk cannot be written.
        """
        for part, (start, stop) in spans(receipts).items():
            descriptor = os.open(self._folder / "parts" / _checked_name(part), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                for offset in range(start, stop, _PIECE):
                    length = min(_PIECE, stop - offset)
                    data = await self._call(address, read_file, "parts", part, offset, length)
                    if len(data) != length:
                        raise TransferError(f"{part} ends at {offset + len(data)}")
                    await asyncio.to_thread(_write, descriptor, data, offset)
                await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)

    async def fetch_logs(self, address: str) -> None:
        """Copy a node's process logs, or the end of long ones; does nothing for a lost node."""
        try:
            sizes = await self._call(address, list_logs)
            short_first = sorted(sizes.items(), key=lambda entry: (not entry[0].endswith(_SHORT_FILES), entry))
            for name, size in short_first:  # time may run out
                start = 0 if name.endswith(_SHORT_FILES) else max(0, size - _MAX_LOG)
                data = await self._call(address, read_file, "logs", name, start, size - start)
                await asyncio.to_thread((self._folder / "logs" / _checked_name(name)).write_bytes, data)
        except TransferError:
            return

    async def _call(self, address: str, function: Any, *arguments: Any) -> Any:
        try:
            return await ask_worker(self._client, address, function, self._token, *arguments)
        except (Exception, asyncio.CancelledError) as error:  # comms raise various errors; the files are then unreachable
            raise TransferError(f"{type(error).__name__}: {error}") from error


def spans(receipts: Iterable[Receipt]) -> dict[str, tuple[int, int]]:
    """Return the half-open byte range that holds the rows of *receipts*, by part file.

    One process at a time runs a lease, so these ranges contain no committed rows of other leases.
    """
    ranges: dict[str, tuple[int, int]] = {}
    for receipt in receipts:
        if receipt.part and receipt.length:
            offset = receipt.offset
            start, stop = ranges.get(receipt.part, (offset, offset))
            ranges[receipt.part] = min(start, offset), max(stop, offset + receipt.length)
    return ranges


def _checked_name(name: str) -> str:
    """Return a file name; raises TransferError for a path or a hidden file."""
    if Path(name).name != name or name.startswith("."):
        raise TransferError(f"{name!r} is not the name of a part or log file")
    return name


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class ScriptLogCollector:
    """Collects the log messages of one run. Nodes send numbered batches; the final one repeats those that may be in transit."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[LogBatch] = queue.SimpleQueue()
        self._last: dict[str, int] = {}  # number of the latest batch, by node
        self._left_out_by_node: dict[str, int] = {}  # dropped lines, by node
        self._left_out = 0
        self._rate_limiter = RateLimiter(None, _MAX_MESSAGES)

    def add(self, batch: LogBatch) -> None:
        """Add a batch of a node; may be called from any thread."""
        self._batches.put(batch)

    def pop_all(self) -> list[ScriptLogged]:
        """Return the messages to forward now; called from the thread that forwards them."""
        lines: list[ScriptLogged] = []
        for _ in range(self._batches.qsize()):
            batch = self._batches.get_nowait()
            node = batch["node"]
            if batch["number"] <= self._last.get(node, 0):
                continue
            self._last[node], self._left_out_by_node[node] = batch["number"], batch["left_out"]
            for line in (ScriptLogged(*fields) for fields in batch["lines"]):
                if self._rate_limiter.admits(0.0, is_urgent=line.level >= logging.WARNING):
                    lines.append(line)
                else:
                    self._left_out += line.text.count("\n") + 1
        return lines

    @property
    def left_out(self) -> int:
        """Return the number of lines that were not forwarded; recent ones of a lost node may be missing."""
        return self._left_out + sum(self._left_out_by_node.values())
