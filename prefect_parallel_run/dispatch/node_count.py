"""How many nodes a run is worth, where they can be had and given back. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

_SECONDS_OF_WORK = 30.0  #: for each of its slots, that a node should find when it comes; less is done before it is there
IDLE_SECONDS = 10.0  #: without a lease, after which a node is given back


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBounds:
    """Between how many nodes a run may have."""

    at_least: int
    at_most: int


def nodes_wanted(bounds: NodeBounds, *, backlog: int, seconds: float, slots: float) -> int:
    """Return how many nodes there should be.

    Args:
        bounds: Of the answer.
        backlog: Mini-batches that are not handed out yet.
        seconds: That one takes; infinite while nobody knows, when every slot is worth one.
        slots: Of a node, on average.

    >>> bounds = NodeBounds(at_least=1, at_most=10)
    >>> [nodes_wanted(bounds, backlog=count, seconds=3.0, slots=2) for count in (0, 30, 100, 1000)]
    [1, 2, 5, 10]
    >>> nodes_wanted(bounds, backlog=7, seconds=float("inf"), slots=2)
    4
    """
    per_slot = max(1.0, _SECONDS_OF_WORK / max(seconds, 1e-9))
    return max(bounds.at_least, min(bounds.at_most, math.ceil(backlog / max(slots * per_slot, 1.0))))
