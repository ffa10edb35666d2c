"""Sends leases, recalls and resizes to nodes; their answers arrive as messages in one queue.

A lease is tracked from its submission until its answer is handled or its node is forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as ThreadFuture
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from prefect_parallel_run.compute.base import LEASE_KEY
from prefect_parallel_run.dispatch.events import Event, LeaseShortened, NodeResized, Resize
from prefect_parallel_run.dispatch.node_output import RemoteFiles, TransferError
from prefect_parallel_run.dispatch.node_pool import NodePool
from prefect_parallel_run.models import Lease, Outcome, Receipt
from prefect_parallel_run.node.node import NOT_BEGUN, LeaseResult
from prefect_parallel_run.node.rpc import NodeClosedError, recall_lease, resize_node, run_lease
from prefect_parallel_run.node.slot_pool import Resized
from prefect_parallel_run.planning.plan import PlanReader

LOST = (KilledWorker, NodeClosedError, TransferError, asyncio.CancelledError, CancelledError)  #: errors of lost nodes
Message = Event | tuple[int, LeaseResult | BaseException]  #: or the id and outcome of a lease


@dataclass(slots=True)
class _Sent:
    lease: Lease
    future: Future
    sent_at: float  #: Unix time, s


class LeaseTransport:
    """Connects one run to its nodes.

    Args:
        client: Dask client of the cluster.
        plan: Mini-batches that leases refer to.
        nodes: Open nodes.
        remote_files: Fetches the rows of nodes that keep them locally.
        report: Receives the answers, on any thread.
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
        address = self._nodes.address_of(lease.node)
        future = self._client.submit(
            run_lease,
            self._nodes.token,
            lease.id,
            lease.start,
            lease.attempt,
            works,
            lease.piece,
            key=f"{LEASE_KEY}{self._nodes.token}-{lease.id}",
            workers=[address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[lease.id] = _Sent(lease, future, time.time())
        fetch_from = address if self._nodes.keeps_rows(lease.node) else None
        self._client.loop.add_callback(self._await_result, lease.id, future, fetch_from)

    async def _await_result(self, number: int, future: Future, fetch_from: str | None) -> None:
        """Wait for a lease on the client's loop, so that a missing result blocks no thread.

        Args:
            number: Id of the lease.
            future: Its result.
            fetch_from: Address of the node to fetch the rows from, or None.
        """
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
            if self._nodes.has(resize.node):  # not lost
                self.resize(resize)
