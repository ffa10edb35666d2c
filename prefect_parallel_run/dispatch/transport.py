"""What passes between the flow process and the nodes: leases, recalls and resizes; rows, logs and script log lines.

Answers arrive as messages in one queue. A lease is tracked from its submission until its answer is handled or its node is
forgotten.

Rows and logs are fetched from nodes that cannot access the run directory, in pieces, so that neither the scheduler nor the flow
process holds all rows of a lease. Local part files are byte-for-byte copies. They are synced to disk before the lease's
receipts are handled: committed rows must survive a power cut.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from prefect_parallel_run._rate_limit import RateLimiter
from prefect_parallel_run.compute.base import LEASE_KEY
from prefect_parallel_run.dispatch.events import Event, LeaseShortened, NodeResized, Resize
from prefect_parallel_run.dispatch.node_pool import NodePool
from prefect_parallel_run.dispatch.workers import ask_worker
from prefect_parallel_run.models import Lease, Outcome, Receipt
from prefect_parallel_run.node.log_files import LogBatch
from prefect_parallel_run.node.node import NOT_BEGUN, LeaseResult
from prefect_parallel_run.node.rpc import NodeClosedError, list_logs, read_file, recall_lease, resize_node, run_lease
from prefect_parallel_run.node.slot_pool import Resized
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.events import ScriptLogged


class TransferError(Exception):
    """Fetching from a node failed; the argument says why."""


LOST = (KilledWorker, NodeClosedError, TransferError, asyncio.CancelledError, CancelledError)  #: errors of lost nodes
Message = Event | tuple[int, LeaseResult | BaseException]  #: or the id and outcome of a lease
_PIECE = 4 << 20  #: bytes in one message
_MAX_LOG = 1 << 20  #: bytes to fetch from the end of a process log
_SHORT_FILES = (".processes.jsonl", ".resources.csv")  #: short files that the node itself writes
_MAX_MESSAGES = 1_000  #: messages per run


@dataclass(slots=True)
class _Sent:
    lease: Lease
    future: Future
    sent_at: float  #: Unix time, s


class LeaseTransport:
    """Connects one run to its nodes.

    *report* receives the answers, on any thread; *remote_files* fetches the rows of nodes that keep them locally.
    """

    def __init__(
        self, client: Client, plan: PlanReader, nodes: NodePool, remote_files: RemoteFiles, report: Callable[[Message], None]
    ) -> None:
        self._client, self._plan, self._nodes = client, plan, nodes
        self._remote_files, self._report = remote_files, report
        self._sent: dict[int, _Sent] = {}
        self._lost_at: dict[tuple[int, int], float] = {}  # when a lost attempt had been sent
        self._failed_resizes: deque[tuple[Resize, BaseException]] = deque()  # that did not reach their node

    @property
    def has_leases(self) -> bool:
        """True while a lease is unanswered."""
        return bool(self._sent)

    def lease(self, number: int) -> Lease | None:
        """Return an unanswered lease; None when its node was lost."""
        sent = self._sent.get(number)
        return None if sent is None else sent.lease

    def complete(self, number: int) -> None:
        """Stop tracking a lease whose answer was handled."""
        del self._sent[number]

    def forget(self, node: str) -> None:
        """Cancel the leases of a lost node."""
        for number in [number for number, sent in self._sent.items() if sent.lease.node == node]:
            sent = self._sent.pop(number)
            sent.future.cancel()
            self._lost_at[sent.lease.start, sent.lease.attempt] = sent.sent_at

    def dated(self, receipt: Receipt) -> Receipt:
        """Return a receipt unchanged, but date a lost attempt from its submission, since its start is unknown."""
        if receipt.outcome != Outcome.LOST:
            return receipt
        at = self._lost_at.pop((receipt.mini_batch, receipt.attempt), time.time())
        return receipt._replace(started=at, seconds=max(time.time() - at, 0.0))

    # Leases

    def submit(self, lease: Lease) -> None:
        """Send a lease to its node."""
        works = "\n".join(self._plan.works(lease.start, lease.stop)).encode("ascii")
        node = self._nodes.nodes[lease.node]
        future = self._client.submit(
            run_lease,
            self._nodes.token,
            lease.id,
            lease.start,
            lease.attempt,
            works,
            lease.piece,
            key=f"{LEASE_KEY}{self._nodes.token}-{lease.id}",
            workers=[node.address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[lease.id] = _Sent(lease, future, time.time())
        fetch_from = node.address if node.keeps_rows else None
        self._client.loop.add_callback(self._await_result, lease.id, future, fetch_from)

    async def _await_result(self, number: int, future: Future, fetch_from: str | None) -> None:
        """Wait for a lease on the client's loop, so that a missing result blocks no thread."""
        outcome: Any
        try:
            outcome = await self._client.gather(future, asynchronous=True)
            if fetch_from is not None:
                await self._remote_files.fetch_rows(fetch_from, outcome.receipts)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  passed to the dispatcher's thread
            outcome = error
        self._report((number, outcome))

    # Recalls

    def recall(self, number: int, *, at_once: bool) -> None:
        """Recall what a lease has not started; the answer arrives as an event."""
        sent = self._sent.get(number)
        if sent is None:  # its result has arrived and is handled next
            return
        call = self._nodes.start_call(sent.lease.node, recall_lease, number, at_once)
        call.add_done_callback(lambda done: self._report_recalled(number, sent.lease.start, done))

    def _report_recalled(self, number: int, start: int, done: ThreadFuture[int | None]) -> None:
        """Report, from the client's thread, what a recalled lease returned."""
        error = done.exception()
        if error is None:
            stop = done.result()
            self._report(LeaseShortened(number, start if stop == NOT_BEGUN else stop))
        elif isinstance(error, OSError | asyncio.TimeoutError | asyncio.CancelledError):
            self._report(LeaseShortened(number, None))  # the node is busy, or lost, which the node pool notices
        else:
            self._report((number, error))

    # Resizes

    def resize(self, resize: Resize) -> None:
        """Make a node add or retire slots; the answer arrives as an event."""
        call = self._nodes.start_call(resize.node, resize_node, resize.slots, resize.number)
        call.add_done_callback(lambda done: self._report_resized(resize, done))

    def _report_resized(self, resize: Resize, done: ThreadFuture[Resized]) -> None:
        """Report, from the client's thread, the slots of a resized node."""
        error = done.exception()
        if error is None:
            self._report(NodeResized(resize.node, *done.result()))
        else:
            self._failed_resizes.append((resize, error))

    def retry_resizes(self) -> None:
        """Repeat resizes that did not reach their node, unless it is lost."""
        for _ in range(len(self._failed_resizes)):
            resize, error = self._failed_resizes.popleft()
            if not isinstance(error, OSError | asyncio.TimeoutError | LOST):
                raise error
            if resize.node in self._nodes.nodes:  # not lost
                self.resize(resize)


class RemoteFiles:
    """Fetches files from the nodes of one run into its run directory."""

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
