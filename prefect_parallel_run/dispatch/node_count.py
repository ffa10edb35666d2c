"""How many nodes a run needs on a cluster that can grow and shrink. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WORK_PER_SLOT = 30.0  #: s of work per slot that justify a new node; less is done before the node has started
IDLE_SECONDS = 10.0  #: s without a lease after which a node is released


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBounds:
    """Smallest and largest number of nodes of a run."""

    at_least: int
    at_most: int


def nodes_wanted(bounds: NodeBounds, *, backlog: int, seconds: float, slots: float) -> int:
    """Return the number of nodes that the backlog justifies.

    Args:
        bounds: Limits of the result.
        backlog: Mini-batches that are not leased.
        seconds: Mean duration of a mini-batch; infinite while unknown, which counts one mini-batch per slot.
        slots: Mean number of slots per node.

    >>> bounds = NodeBounds(at_least=1, at_most=10)
    >>> [nodes_wanted(bounds, backlog=count, seconds=3.0, slots=2) for count in (0, 30, 100, 1000)]
    [1, 2, 5, 10]
    >>> nodes_wanted(bounds, backlog=7, seconds=float("inf"), slots=2)
    4
    """
    per_slot = max(1.0, _WORK_PER_SLOT / max(seconds, 1e-9))
    return max(bounds.at_least, min(bounds.at_most, math.ceil(backlog / max(slots * per_slot, 1.0))))
