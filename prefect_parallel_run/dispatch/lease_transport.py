"""What goes to the nodes and what comes of it: leases, recalls, resizings. Answers arrive as messages in one queue.

A lease is here from its sending until its answer is taken or its node is forgotten, whichever comes first.
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
from prefect_parallel_run.dispatch.node_pool import Nodes
from prefect_parallel_run.dispatch.row_transfer import RemoteFiles, TransferError
from prefect_parallel_run.dispatch.worker_rpc import call_worker
from prefect_parallel_run.models import Lease, Receipt
from prefect_parallel_run.node.node import NOT_BEGUN, LeaseResult
from prefect_parallel_run.node.rpc import NodeClosedError, recall_lease, resize_node, run_lease
from prefect_parallel_run.node.slot_pool import Resized
from prefect_parallel_run.planning.plan import PlanReader

LOST = (KilledWorker, NodeClosedError, TransferError, asyncio.CancelledError, CancelledError)  #: how calls there end
Message = Event | tuple[int, LeaseResult | BaseException]  #: or what came of the lease of that number


@dataclass(slots=True)
class _Sent:
    lease: Lease
    future: Future
    at: float  #: Unix time, s


class LeaseTransport:
    """Between one run and its nodes.

    Args:
        client: Of the cluster.
        token: Of the run.
        plan: Whose mini-batches leases name.
        nodes: That are open.
        homecoming: Fetches the rows of nodes that have them at home.
        tell: Called with what has come, on any thread.
    """

    def __init__(
        self,
        client: Client,
        token: str,
        plan: PlanReader,
        nodes: Nodes,
        homecoming: RemoteFiles,
        tell: Callable[[Message], None],
    ) -> None:
        self._client, self._token, self._plan, self._nodes = client, token, plan, nodes
        self._homecoming, self._tell = homecoming, tell
        self._sent: dict[int, _Sent] = {}
        self._lost_at: dict[tuple[int, int], float] = {}  # when a try that was lost had been sent
        self._unresized: deque[tuple[Resize, BaseException]] = deque()  # of nodes that could not be told

    @property
    def is_out(self) -> bool:
        """True while some lease is out."""
        return bool(self._sent)

    def lease(self, number: int) -> Lease | None:
        """Return a lease that is out; None for one whose node was lost meanwhile."""
        sent = self._sent.get(number)
        return None if sent is None else sent.lease

    def end(self, number: int) -> None:
        """Take note that the answer of a lease has been taken."""
        del self._sent[number]

    def forget(self, node: str) -> None:
        """Give up the leases of a node that is lost."""
        for number in [number for number, sent in self._sent.items() if sent.lease.node == node]:
            sent = self._sent.pop(number)
            sent.future.cancel()
            self._lost_at[sent.lease.start, sent.lease.attempt] = sent.at

    def dated(self, receipt: Receipt) -> Receipt:
        """Return a receipt as it is; that of a lost try with the time it was sent, since nobody knows when it began."""
        if receipt.outcome != "lost":
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
            self._token,
            lease.id,
            lease.start,
            lease.attempt,
            works,
            lease.piece,
            key=f"{LEASE_KEY}{self._token}-{lease.id}",
            workers=[address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[lease.id] = _Sent(lease, future, time.time())
        rows_at = address if self._nodes.has_rows_at_home(lease.node) else None
        self._client.loop.add_callback(self._bring_home, lease.id, future, rows_at)

    async def _bring_home(self, number: int, future: Future, rows_at: str | None) -> None:
        """Wait for a lease on the client's loop, so that a result that never comes blocks nobody.

        Args:
            number: Of the lease.
            future: Its result.
            rows_at: Address of a node from which its rows have to be fetched.
        """
        outcome: Any
        try:
            outcome = await self._client.gather(future, asynchronous=True)
            if rows_at is not None:
                await self._homecoming.fetch_rows(rows_at, outcome.receipts)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  handed to the thread that drives the run
            outcome = error
        self._tell((number, outcome))

    # Recalls

    def recall(self, number: int, *, at_once: bool) -> None:
        """Ask for what a lease has not begun; the answer comes as an event."""
        sent = self._sent.get(number)
        if sent is None:  # its result is here already, and is looked at next
            return
        address = self._nodes.address_of(sent.lease.node)
        asked = call_worker(self._client, address, recall_lease, self._token, number, at_once)
        asked.add_done_callback(lambda done: self._note_recalled(number, sent.lease.start, done))

    def _note_recalled(self, number: int, start: int, done: ThreadFuture[int | None]) -> None:
        """Take note, on the client's thread, of what a lease has given back."""
        error = done.exception()
        if error is None:
            stop = done.result()
            self._tell(LeaseShortened(number, start if stop == NOT_BEGUN else stop))
        elif isinstance(error, OSError | asyncio.TimeoutError | asyncio.CancelledError):
            self._tell(LeaseShortened(number, None))  # the node is lost, which is found out elsewhere; or it was busy
        else:
            self._tell((number, error))

    # Resizings

    def resize(self, wanted: Resize) -> None:
        """Have a node start slots, or retire some; the answer comes as an event."""
        address = self._nodes.address_of(wanted.node)
        asked = call_worker(self._client, address, resize_node, self._token, wanted.slots, wanted.number)
        asked.add_done_callback(lambda done: self._note_resized(wanted, done))

    def _note_resized(self, wanted: Resize, done: ThreadFuture[Resized]) -> None:
        """Take note, on the client's thread, of what slots a node has now."""
        error = done.exception()
        if error is None:
            self._tell(NodeResized(wanted.node, *done.result()))
        else:
            self._unresized.append((wanted, error))

    def resize_again(self) -> None:
        """Tell nodes again that could not be told, as long as they are there."""
        for _ in range(len(self._unresized)):
            wanted, error = self._unresized.popleft()
            if not isinstance(error, OSError | asyncio.TimeoutError | LOST):
                raise error
            if self._nodes.has(wanted.node):  # else it is lost
                self.resize(wanted)
