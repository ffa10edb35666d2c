"""Scales a managed cluster: requests nodes while mini-batches wait and releases idle ones that are not needed.

A released node has no lease, so nothing that it finished runs again.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from prefect_parallel_run._threads import begin
from prefect_parallel_run.dispatch.state import Demand

_STEP_INTERVAL = 1.0  #: s between two steps
_LOST_PATIENCE = 10.0  #: s without any node before they are requested again
_START_PATIENCE = 60.0  #: s that requested nodes may be missing before they are requested again
_RETRY_DELAY = 30.0  #: s before a failed request is repeated
_WORK_PER_SLOT = 30.0  #: s of work per slot that justify a new node; less is done before the node has started
_UNKNOWN_SECONDS = 1.0  #: s that a mini-batch of a paced run is assumed to take until one has ended
IDLE_SECONDS = 10.0  #: s without a lease after which a node is released
UNNEEDED_SECONDS = 300.0  #: s for which a paced run has needed fewer nodes before it releases one: durations vary


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBounds:
    """Smallest and largest number of nodes of a run."""

    at_least: int
    at_most: int


@dataclass(slots=True)
class _Request:
    purpose: str
    nodes: int = 0
    workers: tuple[str, ...] = ()  #: addresses
    answer: Future[None] = field(default_factory=Future)


class Autoscaler:
    """Decides periodically how many nodes a cluster should have.

    Requests run in a background thread, one at a time, and nothing waits for the answer. A failed request (a full batch
    queue, an unavailable API) costs no existing node: it is repeated later.

    *scale* requests a total number of nodes; *release* stops workers on which nothing runs, by address; *warn* receives a
    warning when a request fails, once per cause.
    """

    def __init__(
        self,
        bounds: NodeBounds,
        scale: Callable[[int], None],
        release: Callable[[Collection[str]], None],
        warn: Callable[[str], None],
        begin: Callable[[Callable[[], None]], Future[None]] = begin,
    ) -> None:
        self._bounds, self._scale, self._release, self._warn, self._begin = bounds, scale, release, warn, begin
        self._pending: _Request | None = None  # that the cluster has not answered yet
        self._requested = bounds.at_least
        self._requested_at: float | None = None  # or when all requested nodes were last available
        self._idle_since: dict[str, float] = {}
        self._needed_at: dict[int, float] = {}  # when so many nodes were last needed while work waited
        self._leaving: list[str] = []  # addresses of workers to stop
        self._reported: set[tuple[str, ...]] = set()
        self._retry_at = float("-inf")  # earliest time of the next request after a failed one
        self._next_step = float("-inf")

    def step(self, now: float, demand: Demand) -> list[str]:
        """Request more nodes when they are needed, and return the names of nodes to release; *now*: monotonic clock, s."""
        if not demand.nodes:
            self._wait_for_nodes(now, demand)
            return []
        if now < self._next_step:
            return []
        self._next_step = now + _STEP_INTERVAL
        self._read_answer(now)
        if self._leaving:
            self._send(_Request("stop workers", workers=tuple(self._leaving)), now)
        wanted, available = nodes_wanted(self._bounds, demand), demand.nodes + demand.opening
        if wanted > max(self._requested, available):
            self._send(_Request("start nodes", nodes=wanted), now)
        elif available >= self._requested or self._requested_at is None:
            self._requested_at = now
        elif demand.backlog and now - self._requested_at > _START_PATIENCE:  # lost nodes; not every cluster replaces them
            self._send(_Request("start nodes", nodes=self._requested), now)
        return self._nodes_to_release(now, demand)

    def _nodes_to_release(self, now: float, demand: Demand) -> list[str]:
        self._idle_since = {node: self._idle_since.get(node, now) for node in demand.idle}
        releasable = [node for node, since in self._idle_since.items() if now - since >= IDLE_SECONDS]
        leaving = releasable[: max(0, demand.nodes - self._nodes_to_keep(now, demand))]
        if leaving:
            self._requested = demand.nodes - len(leaving)
        return leaving

    def _nodes_to_keep(self, now: float, demand: Demand) -> int:
        """Return the number of nodes to keep: while work waits, as many as its pace has needed lately; all without a pace."""
        if not demand.backlog:
            return self._bounds.at_least
        needed = nodes_wanted(self._bounds, replace(demand, backlog=sys.maxsize))
        recent = {nodes: at for nodes, at in self._needed_at.items() if now - at < UNNEEDED_SECONDS}
        self._needed_at = {**(recent or {self._bounds.at_most: now}), needed: now}  # nothing is known: all may be needed
        return max(self._needed_at)

    def _wait_for_nodes(self, now: float, demand: Demand) -> None:
        """Request nodes again when all are lost. The first new node is considered immediately, before durations are known."""
        self._read_answer(now)
        if demand.opening:
            self._requested_at = now  # if these are lost too, the wait starts again
        elif demand.backlog and self._requested_at is not None and now - self._requested_at > _LOST_PATIENCE:
            self._send(_Request("start nodes", nodes=self._requested), now)

    def release(self, workers: Collection[str]) -> None:
        """Stop the workers of released nodes, now or after the current request."""
        self._leaving += workers

    def _send(self, request: _Request, now: float) -> None:
        """Send a request, unless one is pending or the last one has just failed."""
        if self._pending is None and now >= self._retry_at:
            do = partial(self._release, request.workers) if request.workers else partial(self._scale, request.nodes)
            self._pending, request.answer = request, self._begin(do)
            self._read_answer(now)

    def _read_answer(self, now: float) -> None:
        """Process the cluster's answer, if there is one."""
        request = self._pending
        if request is None or not request.answer.done():
            return
        self._pending = None
        if (error := request.answer.exception()) is not None:
            self._retry_at = now + _RETRY_DELAY
            self._warn_once(request.purpose, error)
        elif request.workers:
            self._leaving = [worker for worker in self._leaving if worker not in request.workers]
        else:
            self._requested, self._requested_at = request.nodes, now

    def _warn_once(self, purpose: str, error: BaseException) -> None:
        cause = (purpose, type(error).__name__, re.sub(r"\d+", "", str(error)))
        if cause not in self._reported:
            self._reported.add(cause)
            error_text = f"{type(error).__name__}: {error}"
            self._warn(f"the cluster could not {purpose}: {error_text}; retrying every {_RETRY_DELAY:g} s (shown once)")


def nodes_wanted(bounds: NodeBounds, demand: Demand) -> int:
    """Return the number of nodes that the backlog justifies, but not more than the pace of a paced run keeps busy.

    While the duration is unknown, a slot counts for one mini-batch, and a paced run for one of short mini-batches.

    >>> bounds = NodeBounds(at_least=1, at_most=10)
    >>> [nodes_wanted(bounds, Demand(backlog=count, seconds=3.0, slots=2, nodes=1)) for count in (0, 30, 100, 1000)]
    [1, 2, 5, 10]
    >>> nodes_wanted(bounds, Demand(backlog=7, seconds=float("inf"), slots=2, nodes=1))
    4
    """
    per_slot = max(1.0, _WORK_PER_SLOT / max(demand.seconds, 1e-9))
    slots = demand.slots / demand.nodes
    paced_seconds = max(demand.seconds, _WORK_PER_SLOT) if math.isfinite(demand.seconds) else _UNKNOWN_SECONDS
    soon = min(demand.backlog, demand.per_second * paced_seconds)
    return max(bounds.at_least, min(bounds.at_most, math.ceil(soon / max(slots * per_slot, 1.0))))
