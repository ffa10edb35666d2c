"""Asks a cluster of our own for nodes while work waits, and gives back those that have nothing to do.

A node that is given back has no lease: nothing that it has finished is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from prefect_parallel_run.policy.node_count import IDLE_SECONDS, NodeBounds, nodes_wanted

_LOOK = 1.0  #: s between two looks
_ALL_LOST = 10.0  #: s without any node, before they are asked for again
_ASKED_AGAIN = 60.0  #: s without the nodes that were asked for


class Elasticity:
    """Decides, now and then, how many nodes there should be.

    Args:
        bounds: Between how many.
        scale: Asks the cluster for a number of nodes in all.
    """

    def __init__(self, bounds: NodeBounds, scale: Callable[[int], None]) -> None:
        self._bounds, self._scale = bounds, scale
        self._asked = bounds.at_least
        self._asked_at: float | None = None  # or when all that were asked for were there last
        self._idle_since: dict[str, float] = {}
        self._next_look = float("-inf")

    def look(self, now: float, *, backlog: int, seconds: float, slots: int, nodes: int, idle: Collection[str]) -> list[str]:
        """Ask for more nodes where they are wanted, and return those to give back.

        Args:
            now: Monotonic clock, s.
            backlog: Mini-batches that are not handed out.
            seconds: That one takes.
            slots: Of all nodes.
            nodes: That are open.
            idle: Those of them without a lease.
        """
        if now < self._next_look:
            return []
        self._next_look = now + _LOOK
        if not nodes:
            if backlog and self._asked_at is not None and now - self._asked_at > _ALL_LOST:
                self._ask(self._asked, now)
            return []
        wanted = nodes_wanted(self._bounds, backlog=backlog, seconds=seconds, slots=slots / nodes)
        if wanted > max(self._asked, nodes):
            self._ask(wanted, now)
        elif nodes >= self._asked or self._asked_at is None:
            self._asked_at = now
        elif backlog and now - self._asked_at > _ASKED_AGAIN:  # some were lost: not every cluster replaces them by itself
            self._ask(self._asked, now)
        self._idle_since = {node: self._idle_since.get(node, now) for node in idle}
        may_go = [node for node, since in self._idle_since.items() if now - since >= IDLE_SECONDS] if not backlog else []
        going = may_go[: max(0, nodes - self._bounds.at_least)]
        if going:
            self._asked = nodes - len(going)
        return going

    def _ask(self, nodes: int, now: float) -> None:
        self._scale(nodes)
        self._asked, self._asked_at = nodes, now
