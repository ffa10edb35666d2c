"""Opening workers for a run: each is asked what it sees, given the script where it lacks it, and told to open.

Every worker goes its own way, on the client's loop: one that builds its environment for minutes, or hangs, holds up neither
the others nor the run. Each opening ends exactly once, taken by ``ended`` or given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import NamedTuple

from distributed import Client

from prefect_parallel_run.dispatch.worker_rpc import ask_worker
from prefect_parallel_run.errors import ComputeTargetError, InputError, OutputError, ParallelRunError
from prefect_parallel_run.node.preflight import PreflightRequest, PreflightResult
from prefect_parallel_run.node.rpc import NodeAccess, open_node, take_bundle, view_node
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings

GONE = (OSError, asyncio.TimeoutError, asyncio.CancelledError, FutureCancelledError)  #: how calls to what is lost end
_PIECE = 4 << 20  #: bytes of a bundle in one message
_PIECES = 8  #: messages with one under way at a time
_VIEW_TIMEOUT = 60.0  #: s for a worker to say what it sees


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSetup:
    """What nodes on other machines have to be asked and given before they can be used."""

    probe: PreflightRequest
    bundle: Path  #: the script as it travels
    mark: Path  #: that nodes look for

    def end(self) -> None:
        """Remove what was only made for it."""
        for path in (self.bundle, self.mark):
            path.unlink(missing_ok=True)


class ReadyNode(NamedTuple):
    """A node that is open."""

    facts: NodeFacts
    way: NodeAccess | None  #: None: it sees everything


@dataclass(slots=True)
class NodeSetup:
    """A worker that is being opened."""

    address: str
    number: int  #: of the name that it is offered
    is_first: bool  #: begun before any node was open: its failure ends the run
    is_told: bool = False  #: it may have taken the name
    future: Future[ReadyNode] = field(default_factory=Future)

    @property
    def name(self) -> str:
        """Return the name that it is offered; one that was prepared has another already."""
        return f"node-{self.number}"

    def outcome(self) -> ReadyNode | BaseException:
        """Return what has come of it."""
        try:
            return self.future.exception() or self.future.result()
        except FutureCancelledError as error:
            return error


class NodeSetups:
    """The workers that are being opened, each under a name of its own.

    Args:
        client: Of the cluster.
        settings: What every node is told.
        prepared: Nodes that are named already, from ``node-0`` on.
        journey: None for nodes that are processes of this machine.
        wake: Called, on the client's thread, when one has ended.
    """

    def __init__(
        self, client: Client, settings: NodeSettings, prepared: int, journey: RemoteSetup | None, wake: Callable[[], None]
    ) -> None:
        self._client, self._settings, self._journey, self._wake = client, settings, journey, wake
        self._numbers = count(prepared)
        self._unused: list[int] = []  # a heap of numbers that were offered, and never taken
        self._under_way: dict[str, NodeSetup] = {}  # by address
        self._pieces = asyncio.Semaphore(_PIECES)

    def want_slots(self, count: int) -> None:
        """Have nodes that are opened from now on start with so many slots."""
        self._settings = replace(self._settings, slots=count)

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, address: str) -> bool:
        return address in self._under_way

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of the workers that are being opened."""
        return list(self._under_way)

    def begin(self, address: str, *, is_first: bool) -> None:
        """Begin to open a worker."""
        number = heappop(self._unused) if self._unused else next(self._numbers)
        opening = self._under_way[address] = NodeSetup(address, number, is_first)
        opening.future = asyncio.run_coroutine_threadsafe(self._open(opening), self._client.loop.asyncio_loop)
        opening.future.add_done_callback(lambda _: self._wake())

    def ended(self) -> Iterator[tuple[NodeSetup, ReadyNode | BaseException]]:
        """Yield those that have ended, in the order they were begun, with what came of them; each once."""
        for opening in [opening for opening in self._under_way.values() if opening.future.done()]:
            outcome = opening.outcome()
            self._close(opening, outcome)
            yield opening, outcome

    def give_up(self, address: str) -> NodeSetup | None:
        """Wait no longer for a worker, whatever it does there; None when it is not being opened."""
        opening = self._under_way.get(address)
        if opening is not None:
            opening.future.cancel()
            self._close(opening, OSError("the worker was lost"))
        return opening

    def _close(self, opening: NodeSetup, outcome: ReadyNode | BaseException) -> None:
        del self._under_way[opening.address]
        is_taken = opening.is_told if isinstance(outcome, BaseException) else outcome.facts.node == opening.name
        if not is_taken:
            heappush(self._unused, opening.number)

    # On the client's loop

    async def _open(self, opening: NodeSetup) -> ReadyNode:
        way = None if self._journey is None else await self._make_ready(self._journey, opening.address)
        opening.is_told = True
        settings = replace(self._settings, node=opening.name)
        return ReadyNode(await ask_worker(self._client, opening.address, open_node, settings, way), way)

    async def _make_ready(self, journey: RemoteSetup, address: str) -> NodeAccess:
        """Ask a worker what it sees, and give it what it lacks."""
        try:
            view = await asyncio.wait_for(ask_worker(self._client, address, view_node, journey.probe), _VIEW_TIMEOUT)
        except asyncio.TimeoutError as error:  # it lives: of one that does not, somebody else takes note
            words = f"it has not said within {_VIEW_TIMEOUT:g} s which files it sees; does one of its mounts hang?"
            raise ComputeTargetError(address, words) from error
        if (problem := problem_of(address, view)) is not None:
            raise problem
        if not (view.sees_script or view.has_bundle):
            await self._give_bundle(journey, address)
        return NodeAccess(not view.shares, not view.sees_script)

    async def _give_bundle(self, journey: RemoteSetup, address: str) -> None:
        """Send the bundle, piece by piece."""
        size, offset = journey.bundle.stat().st_size, 0
        with journey.bundle.open("rb") as file:
            while offset < size:
                async with self._pieces:
                    piece = file.read(_PIECE)
                    is_last = offset + len(piece) == size
                    arguments = (self._settings.token, journey.probe.bundle, offset, piece, is_last)
                    await ask_worker(self._client, address, take_bundle, *arguments)
                offset += len(piece)


def problem_of(address: str, view: PreflightResult) -> ParallelRunError | None:
    """Return what keeps a worker from being used, or None."""
    for name, path in view.missing:
        where = f"the node {address} (host {view.host}) cannot see it"
        if name == "output":
            return OutputError(path, f"{where}; the script writes there: use a folder that all nodes share, or a store's URL")
        return InputError(path, f"{where}; use a folder that all nodes share, or a store's URL")
    return None
