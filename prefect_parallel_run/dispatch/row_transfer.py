"""Fetches rows and logs from nodes that cannot see the run directory. A part is here what it is there, byte by byte.

Bytes pass in pieces, so that neither the scheduler nor the flow process ever holds the rows of a lease. They are on disk
before the lease's receipts are looked at: what the ledger says is committed must survive a power cut.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distributed import Client

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.rpc import list_logs, read_file

_PIECE = 4 << 20  #: bytes in one message
_MOST_LOG = 1 << 20  #: bytes of one log that processes write, its end
_WHOLE = (".processes.jsonl", ".resources.csv")  #: what the node writes itself, which is short
_PART, _OFFSET, _LENGTH = (Receipt._fields.index(name) for name in ("part", "offset", "length"))


class TransferError(Exception):
    """The node could not be asked for its rows; the argument says why."""


class RemoteFiles:
    """Fetches from the nodes of one run.

    Args:
        client: Of the cluster.
        token: Of the run.
        run_directory: That nodes cannot see.
    """

    def __init__(self, client: Client, token: str, run_directory: str) -> None:
        self._client, self._token, self._folder = client, token, Path(run_directory)

    async def fetch_rows(self, address: str, receipts: Iterable[tuple[Any, ...]]) -> None:
        """Bring the rows of *receipts* into this machine's parts, synced.

        Raises:
            LostOnTheWayError: The node is lost, or has closed.
            OSError: This machine's disk does not take them.
        """
        for part, (start, stop) in spans(receipts).items():
            descriptor = os.open(self._folder / "parts" / _plain(part), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                for offset in range(start, stop, _PIECE):
                    length = min(_PIECE, stop - offset)
                    data = await self._ask(address, read_file, "parts", part, offset, length)
                    if len(data) != length:
                        raise TransferError(f"{part} ends at {offset + len(data)}")
                    await asyncio.to_thread(_write, descriptor, data, offset)
                await asyncio.to_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)

    async def fetch_logs(self, address: str) -> None:
        """Bring what a node's processes have printed, of each log the end; of a node that is lost there is nothing to bring."""
        try:
            found = await self._ask(address, list_logs)
            for name, size in sorted(found.items(), key=lambda one: (not one[0].endswith(_WHOLE), one)):  # should time run out
                start = 0 if name.endswith(_WHOLE) else max(0, size - _MOST_LOG)
                data = await self._ask(address, read_file, "logs", name, start, size - start)
                await asyncio.to_thread((self._folder / "logs" / _plain(name)).write_bytes, data)
        except TransferError:
            return

    async def _ask(self, address: str, function: Any, *arguments: Any) -> Any:
        try:
            answers = await self._client.run(function, self._token, *arguments, workers=[address], asynchronous=True)
            return answers[address]
        except (Exception, asyncio.CancelledError) as error:  # comms raise what they like; the node's disk is as good as lost
            raise TransferError(f"{type(error).__name__}: {error}") from error


def spans(receipts: Iterable[tuple[Any, ...]]) -> dict[str, tuple[int, int]]:
    """Return where the rows of *receipts* lie: by part, the half-open range of bytes that holds them all.

    A lease is run by one process at a time, so nothing that counts for others lies between them.
    """
    found: dict[str, tuple[int, int]] = {}
    for receipt in receipts:
        part, offset, length = receipt[_PART], receipt[_OFFSET], receipt[_LENGTH]
        if part and length:
            start, stop = found.get(part, (offset, offset))
            found[part] = min(start, offset), max(stop, offset + length)
    return found


def _plain(name: str) -> str:
    """Return a file's name; one that would lead elsewhere is no name of ours."""
    if Path(name).name != name or name.startswith("."):
        raise TransferError(f"{name!r} is no name of a part or a log")
    return name


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
