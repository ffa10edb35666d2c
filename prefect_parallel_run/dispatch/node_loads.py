"""Finds the node with the fewest leases per slot in logarithmic time. Pure."""

from __future__ import annotations

import heapq

_MAX_OUTDATED = 64  #: outdated heap entries to keep beyond the number of nodes


class NodeLoads:
    """Leases per slot, by node.

    >>> loads = NodeLoads()
    >>> loads.update("a", 2, 4), loads.update("b", 1, 4), loads.update("b", 3, 4)
    (None, None, None)
    >>> loads.least()
    (0.5, 'a')
    >>> loads.forget("a")
    >>> loads.least()
    (0.75, 'b')
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, int]] = []  # load, node, number of the change; only a node's latest entry is valid
        self._newest: dict[str, int] = {}
        self._changes = 0

    def update(self, node: str, leases: int, slots: int) -> None:
        """Record the leases and slots of a node; a node without slots is never the least loaded."""
        self._changes += 1
        self._newest[node] = self._changes
        if slots > 0:
            heapq.heappush(self._heap, (leases / slots, node, self._changes))
        if len(self._heap) > 2 * len(self._newest) + _MAX_OUTDATED:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)

    def forget(self, node: str) -> None:
        """Remove a node."""
        self._newest.pop(node, None)

    def least(self) -> tuple[float, str] | None:
        """Return the smallest load and its node, the first by name among equals; None when there is no slot."""
        while self._heap and not self._is_valid(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][:2] if self._heap else None

    def _is_valid(self, entry: tuple[float, str, int]) -> bool:
        return self._newest.get(entry[1]) == entry[2]
