"""Asks a cluster of our own for nodes while work waits, and gives back those that have nothing to do.

A node that is given back has no lease: nothing that it has finished is run again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from prefect_parallel_run.compute.bounded import begin
from prefect_parallel_run.dispatch.node_count import IDLE_SECONDS, NodeBounds, nodes_wanted

_LOOK = 1.0  #: s between two looks
_ALL_LOST = 10.0  #: s without any node, before they are asked for again
_ASKED_AGAIN = 60.0  #: s without the nodes that were asked for
_REFUSED = 30.0  #: s before a cluster that has refused something is asked again


@dataclass(slots=True)
class _Order:
    what: str
    nodes: int = 0
    workers: tuple[str, ...] = ()  #: addresses
    answer: Future[None] = field(default_factory=Future)


class Autoscaler:
    """Decides, now and then, how many nodes there should be.

    The cluster is asked on a thread of its own, one thing at a time, and nothing waits for its answer. One that refuses (a
    batch queue is full, an API is down) costs no node that is there: it is asked again later.

    Args:
        bounds: Between how many.
        scale: Asks the cluster for a number of nodes in all.
        release: Ends the workers of these addresses; nothing runs on them.
        warned: Told what the cluster refuses, once per cause.
        begin: Has something done elsewhere.
    """

    def __init__(
        self,
        bounds: NodeBounds,
        scale: Callable[[int], None],
        release: Callable[[Collection[str]], None],
        warned: Callable[[str], None],
        begin: Callable[[Callable[[], None]], Future[None]] = begin,
    ) -> None:
        self._bounds, self._scale, self._end, self._warned, self._begin = bounds, scale, release, warned, begin
        self._order: _Order | None = None  # that the cluster has not answered
        self._asked = bounds.at_least
        self._asked_at: float | None = None  # or when all that were asked for were there last
        self._idle_since: dict[str, float] = {}
        self._going: list[str] = []  # addresses of workers that are to end
        self._told: set[tuple[str, ...]] = set()
        self._not_before = float("-inf")  # is the cluster asked again, that has refused
        self._next_look = float("-inf")

    def look(
        self, now: float, *, backlog: int, seconds: float, slots: int, nodes: int, idle: Collection[str], opening: int = 0
    ) -> list[str]:
        """Ask for more nodes where they are wanted, and return those to give back.

        Args:
            now: Monotonic clock, s.
            backlog: Mini-batches that are not handed out.
            seconds: That one takes.
            slots: Of all nodes.
            nodes: That are open.
            idle: Those of them without a lease.
            opening: Nodes that are there, and being opened.
        """
        if not nodes:
            self._wait_for_nodes(now, has_work=backlog > 0, opening=opening)
            return []
        if now < self._next_look:
            return []
        self._next_look = now + _LOOK
        self._hear(now)
        if self._going:
            self._give(_Order("to end workers", workers=tuple(self._going)), now)
        wanted = nodes_wanted(self._bounds, backlog=backlog, seconds=seconds, slots=slots / nodes)
        if wanted > max(self._asked, nodes + opening):
            self._ask(wanted, now)
        elif nodes + opening >= self._asked or self._asked_at is None:
            self._asked_at = now
        elif backlog and now - self._asked_at > _ASKED_AGAIN:  # some were lost: not every cluster replaces them by itself
            self._ask(self._asked, now)
        self._idle_since = {node: self._idle_since.get(node, now) for node in idle}
        may_go = [node for node, since in self._idle_since.items() if now - since >= IDLE_SECONDS] if not backlog else []
        going = may_go[: max(0, nodes - self._bounds.at_least)]
        if going:
            self._asked = nodes - len(going)
        return going

    def _wait_for_nodes(self, now: float, *, has_work: bool, opening: int) -> None:
        """Ask again when all are lost; the first that comes is looked at at once, while nobody knows how long work takes."""
        self._hear(now)
        if opening:
            self._asked_at = now  # should those be lost too, patience begins anew
        elif has_work and self._asked_at is not None and now - self._asked_at > _ALL_LOST:
            self._ask(self._asked, now)

    def release(self, workers: Collection[str]) -> None:
        """Have workers end whose nodes were given back; if not now, then later."""
        self._going += workers

    def _ask(self, nodes: int, now: float) -> None:
        self._give(_Order("for more nodes", nodes=nodes), now)

    def _give(self, order: _Order, now: float) -> None:
        """Give the cluster an order, unless it has one, or has just refused one."""
        if self._order is None and now >= self._not_before:
            do = partial(self._end, order.workers) if order.workers else partial(self._scale, order.nodes)
            self._order, order.answer = order, self._begin(do)
            self._hear(now)

    def _hear(self, now: float) -> None:
        """Take note of the cluster's answer, if there is one."""
        order = self._order
        if order is None or not order.answer.done():
            return
        self._order = None
        if (error := order.answer.exception()) is not None:
            self._not_before = now + _REFUSED
            self._tell(order.what, error)
        elif order.workers:
            self._going = [worker for worker in self._going if worker not in order.workers]
        else:
            self._asked, self._asked_at = order.nodes, now

    def _tell(self, what: str, error: BaseException) -> None:
        cause = (what, type(error).__name__, re.sub(r"\d+", "", str(error)))
        if cause not in self._told:
            self._told.add(cause)
            words = f"the cluster was asked {what}, and refuses: {type(error).__name__}: {error}"
            self._warned(f"{words}; it is asked again every {_REFUSED:g} s (this is told once)")
