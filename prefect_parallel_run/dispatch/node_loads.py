"""Which node has the most room: nodes in the order of their leases per slot, not looked through by the thousand. Pure."""

from __future__ import annotations

import heapq

_MOST_VOID = 64  #: entries of nodes that have changed since, beyond as many as there are nodes


class Loads:
    """Leases per slot, by node.

    >>> loads = Loads()
    >>> loads.note("a", 2, 4), loads.note("b", 1, 4), loads.note("b", 3, 4)
    (None, None, None)
    >>> loads.least()
    (0.5, 'a')
    >>> loads.forget("a")
    >>> loads.least()
    (0.75, 'b')
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, int]] = []  # load, node, number of the change; all but a node's newest are void
        self._newest: dict[str, int] = {}
        self._changes = 0

    def note(self, node: str, leases: int, slots: int) -> None:
        """Take note of what a node has now; one without slots has no room at all."""
        self._changes += 1
        self._newest[node] = self._changes
        if slots > 0:
            heapq.heappush(self._heap, (leases / slots, node, self._changes))
        if len(self._heap) > 2 * len(self._newest) + _MOST_VOID:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)

    def forget(self, node: str) -> None:
        """Take note that a node is gone."""
        self._newest.pop(node, None)

    def least(self) -> tuple[float, str] | None:
        """Return the least load and its node, the first by name among equals; None without any slot."""
        while self._heap and not self._is_valid(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][:2] if self._heap else None

    def _is_valid(self, entry: tuple[float, str, int]) -> bool:
        return self._newest.get(entry[1]) == entry[2]
