"""Opens workers for a run: checks what each can see, sends it the script if needed, and opens a node on it.

Every setup is a coroutine on the client's loop: a worker that builds its environment for minutes, or hangs, delays
neither the others nor the run. Each setup ends exactly once: ``pop_ended`` yields it, or ``cancel`` gives it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import NamedTuple

from prefect_parallel_run.compute.base import Cluster
from prefect_parallel_run.dispatch.workers import ask_worker
from prefect_parallel_run.errors import ComputeTargetError, InputError, OutputError, ParallelRunError
from prefect_parallel_run.node.remote_setup import PreflightRequest, PreflightResult
from prefect_parallel_run.node.rpc import NodeAccess, check_node, open_node, receive_bundle
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings

_PIECE = 4 << 20  #: bytes of a code archive in one message
_PIECES = 8  #: such messages in flight at a time
_PREFLIGHT_TIMEOUT = 60.0  #: s for a worker to answer the preflight check


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSetup:
    """What nodes on other machines must check and receive before they can be used."""

    preflight: PreflightRequest
    bundle: Path  #: code archive of the script
    mark: Path  #: file that shows whether a node shares the run directory

    def clean_up(self) -> None:
        """Delete the files that were only created for the setup."""
        for path in (self.bundle, self.mark):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """The nodes of a run: how many, and what each of them receives."""

    settings: NodeSettings
    at_most: int
    remote: RemoteSetup | None = None  #: None: all nodes are processes of this machine


class ReadyNode(NamedTuple):
    """An open node."""

    address: str
    facts: NodeFacts
    access: NodeAccess | None  #: None: it runs on this machine

    @property
    def keeps_rows(self) -> bool:
        """True when the rows and logs of the node have to be fetched."""
        return self.access is not None and self.access.rows_are_remote


@dataclass(slots=True)
class NodeSetup:
    """A worker that a node is being opened on."""

    address: str
    number: int  #: number in the name that it is offered
    is_first: bool  #: started before any node was open: its failure ends the run
    was_offered: bool = False  #: it may have adopted the offered name
    future: Future[ReadyNode] = field(default_factory=Future)

    @property
    def name(self) -> str:
        """Return the offered name; a prepared node already has another."""
        return f"node-{self.number}"

    def outcome(self) -> ReadyNode | BaseException:
        """Return the open node, or the error."""
        try:
            return self.future.exception() or self.future.result()
        except CancelledError as error:
            return error


class NodeSetups:
    """The setups in progress, each with its own node name.

    Args:
        cluster: The open cluster.
        spec: The nodes to open.
        wake: Called when a setup has ended, on the client's thread.
    """

    def __init__(self, cluster: Cluster, spec: NodeSpec, wake: Callable[[], None]) -> None:
        self._client, self._settings, self._remote, self._wake = cluster.client, spec.settings, spec.remote, wake
        self._numbers = count(cluster.prepared)
        self._unused_numbers: list[int] = []  # a heap of numbers that were offered but not adopted
        self._in_progress: dict[str, NodeSetup] = {}  # by address
        self._pieces = asyncio.Semaphore(_PIECES)

    def set_slots(self, count: int) -> None:
        """Set the number of slots for nodes that are opened from now on."""
        self._settings = self._settings.with_node(slots=count)

    def __len__(self) -> int:
        return len(self._in_progress)

    def __contains__(self, address: str) -> bool:
        return address in self._in_progress

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of workers that are being opened."""
        return list(self._in_progress)

    def start(self, address: str, *, is_first: bool) -> None:
        """Start to open a node on a worker."""
        number = heappop(self._unused_numbers) if self._unused_numbers else next(self._numbers)
        setup = self._in_progress[address] = NodeSetup(address, number, is_first)
        setup.future = asyncio.run_coroutine_threadsafe(self._open(setup), self._client.loop.asyncio_loop)
        setup.future.add_done_callback(lambda _: self._wake())

    def pop_ended(self) -> Iterator[tuple[NodeSetup, ReadyNode | BaseException]]:
        """Yield each ended setup once, in start order, with its result."""
        for setup in [setup for setup in self._in_progress.values() if setup.future.done()]:
            outcome = setup.outcome()
            self._close(setup, outcome)
            yield setup, outcome

    def cancel(self, address: str) -> NodeSetup | None:
        """Cancel the setup of a worker and return it; None when there is none."""
        setup = self._in_progress.get(address)
        if setup is not None:
            setup.future.cancel()
            self._close(setup, OSError("the worker was lost"))
        return setup

    def _close(self, setup: NodeSetup, outcome: ReadyNode | BaseException) -> None:
        del self._in_progress[setup.address]
        is_taken = setup.was_offered if isinstance(outcome, BaseException) else outcome.facts.node == setup.name
        if not is_taken:
            heappush(self._unused_numbers, setup.number)

    # On the client's loop

    async def _open(self, setup: NodeSetup) -> ReadyNode:
        access = None if self._remote is None else await self._prepare(self._remote, setup.address)
        setup.was_offered = True
        settings = self._settings.with_node(name=setup.name)
        facts = await ask_worker(self._client, setup.address, open_node, settings, access)
        return ReadyNode(setup.address, facts, access)

    async def _prepare(self, remote: RemoteSetup, address: str) -> NodeAccess:
        """Check what a worker can see, and send it the code archive if it needs that."""
        try:
            result = await asyncio.wait_for(ask_worker(self._client, address, check_node, remote.preflight), _PREFLIGHT_TIMEOUT)
        except asyncio.TimeoutError as error:  # the worker is alive: the node pool notices a lost one
            message = f"no preflight answer within {_PREFLIGHT_TIMEOUT:g} s; one of its network mounts may be hanging"
            raise ComputeTargetError(address, message) from error
        if (problem := access_error(address, result)) is not None:
            raise problem
        if not (result.sees_script or result.has_bundle):
            await self._send_archive(remote, address)
        return NodeAccess(not result.shares, not result.sees_script)

    async def _send_archive(self, remote: RemoteSetup, address: str) -> None:
        """Send the code archive in pieces."""
        size, offset = remote.bundle.stat().st_size, 0
        with remote.bundle.open("rb") as file:
            while offset < size:
                async with self._pieces:
                    piece = file.read(_PIECE)
                    is_last = offset + len(piece) == size
                    arguments = (self._settings.token, remote.preflight.bundle, offset, piece, is_last)
                    await ask_worker(self._client, address, receive_bundle, *arguments)
                offset += len(piece)


def access_error(address: str, result: PreflightResult) -> ParallelRunError | None:
    """Return the error for a path that a worker cannot see, or None."""
    for name, path in result.missing:
        where = f"node {address} (host {result.host}) cannot access it"
        if name == "output":
            return OutputError(
                path, f"{where}, and the script writes to it; use a folder that all nodes share, or a storage URL"
            )
        return InputError(path, f"{where}; use a folder that all nodes share, or a storage URL")
    return None
