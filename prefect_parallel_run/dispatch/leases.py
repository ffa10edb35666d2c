"""The unfinished leases: which slots they occupy, and which of them to recall or to duplicate near the end of a run. Pure.

Every unfinished lease is assigned to exactly one node. Slots become ready one by one. Resizes are numbered: reports from
before a node's latest resize are out of date.

A recalled lease *returns* the mini-batches that it has not started, so that a slow mini-batch delays none behind it.
With speculative_execution, a slow mini-batch also runs a second time on another node. The two leases are *duplicates*;
they count as one attempt, and an attempt is duplicated at most once.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from prefect_parallel_run.dispatch.events import LeaseFinished, NodeResized, SlotReady, SlotUnusable
from prefect_parallel_run.models import Lease

_MAX_OUTDATED = 64  #: outdated heap entries to keep beyond the number of nodes
_OVERDUE = 0.1  #: s: leases near the end are sized to be shorter than this
_SLOW = 0.25  #: s: duplicating a shorter mini-batch could not save much
_SLOW_TIMES = 1.5  #: multiple of the mean duration after which a mini-batch is slow


@dataclass(slots=True)
class _Node:
    slots: int
    ready: int = 0  # slots whose process has started; only these can have started a mini-batch
    leases: dict[int, Lease] = field(default_factory=dict)  # in submission order
    leaving: set[int] = field(default_factory=set)  # leases on slots that were removed
    as_of: int = 0  # number of the resize that slots and ready reflect
    ahead: Counter[int] = field(default_factory=Counter)  # slots that were ready before their resize was known, by its number

    @property
    def free(self) -> int:
        return max(0, min(self.ready, self.slots) - self.load)

    @property
    def load(self) -> int:
        return len(self.leases) - len(self.leaving)  # those on its slots

    def has_started(self, number: int) -> bool:
        """Return whether a lease runs: the first ones do, and those on removed slots."""
        staying = [lease for lease in self.leases if lease not in self.leaving]
        return number in self.leaving or number in staying[: self.ready]


class SlotAccounting:
    """The nodes of a run, their slots, and their unfinished leases."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}  #: unfinished leases by id, in submission order
        self.slots = 0  #: total over all nodes
        self.nodes: dict[str, _Node] = {}  #: the current nodes, by name
        self._early: Counter[str] = Counter()  # slots that were ready before their node joined
        self._usable: dict[tuple[str, int], int] = {}  # slots of a node that has lost some since a resize, by its number
        self._loads = NodeLoads()

    @property
    def idle_nodes(self) -> list[str]:
        """Return the names of nodes without a lease, those with the fewest slots first."""
        return sorted((name for name, node in self.nodes.items() if not node.leases), key=lambda name: self.nodes[name].slots)

    @property
    def has_slots(self) -> bool:
        """True when any node has a slot."""
        return any(node.slots > 0 for node in self.nodes.values())

    def free(self) -> dict[str, int]:
        """Return the number of idle slots by node, for nodes that have any."""
        return {name: node.free for name, node in self.nodes.items() if node.free}

    def is_overfull(self, name: str) -> bool:
        """Return whether a node has more leases than slots, so that a lease waits."""
        return self.nodes[name].load > self.nodes[name].slots

    def least_loaded(self) -> tuple[float, str] | None:
        """Return the smallest number of leases per slot and its node; None when there is no slot."""
        return self._loads.least()

    def idle_node(self, *, fills: bool = False) -> str | None:
        """Return the node with the most idle slots, or with *fills* the one with the fewest; None without any.

        With no idle slot and no lease on any node, this is a node whose processes are starting.
        """
        if free := self.free():
            return (min if fills else max)(free, key=free.__getitem__)
        least = None if self.leases else self.least_loaded()
        return None if least is None else least[1]

    # Slots

    def add_node(self, name: str, slots: int) -> None:
        """Add a node."""
        node = self.nodes[name] = _Node(0)
        self._set_slots(name, slots)
        node.ready = min(node.slots, self._early.pop(name, 0))

    def record_ready(self, event: SlotReady) -> None:
        """Record that the process of a slot has started."""
        node = self.nodes.get(event.node)
        if node is None:
            self._early[event.node] += 1
        elif event.as_of == node.as_of:
            node.ready += 1
        elif event.as_of > node.as_of:  # arrived before the answer to the resize
            node.ahead[event.as_of] += 1

    def record_unusable(self, event: SlotUnusable) -> None:
        """Record that a slot cannot be used; a node that has not joined, or answered its resize, has fewer slots from then."""
        change = event.node, event.as_of
        self._usable[change] = min(self._usable.get(change, event.slots), event.slots)
        if (node := self.nodes.get(event.node)) is not None:
            self._set_slots(event.node, node.slots)

    def resize(self, event: NodeResized) -> None:
        """Record the new slots of a node, unless a later resize is known."""
        node = self.nodes.get(event.node)
        if node is None or event.as_of <= node.as_of:
            return
        node.as_of, node.ready = event.as_of, event.ready + node.ahead[event.as_of]
        node.ahead.clear()
        node.leaving = {lease for lease in event.leaving if lease in node.leases}
        self._set_slots(event.node, event.slots)

    def _set_slots(self, name: str, slots: int) -> None:
        node = self.nodes[name]
        slots = min(slots, self._usable.get((name, node.as_of), slots))
        self.slots += slots - node.slots
        node.slots = slots
        self._update_load(name)

    def _update_load(self, name: str) -> None:
        node = self.nodes[name]
        self._loads.update(name, node.load, node.slots)

    # Leases

    def add_lease(self, lease: Lease) -> None:
        """Add a lease to the node that it names."""
        self.leases[lease.id] = self.nodes[lease.node].leases[lease.id] = lease
        self._update_load(lease.node)

    def replace_lease(self, lease: Lease) -> None:
        """Replace an unfinished lease by its remaining part."""
        self.leases[lease.id] = self.nodes[lease.node].leases[lease.id] = lease

    def complete(self, event: LeaseFinished) -> Lease | None:
        """Remove and return a finished lease; None for a lost one."""
        lease = self.leases.pop(event.lease, None)
        if lease is None:
            return None
        node = self.nodes[lease.node]
        del node.leases[lease.id]
        node.leaving.discard(lease.id)
        is_current = event.as_of == node.as_of  # otherwise the report is out of date
        self._set_slots(lease.node, event.slots if is_current else node.slots)
        node.ready = max(node.ready, min(1, node.slots))
        return lease

    def remove_node(self, name: str) -> list[tuple[Lease, bool]]:
        """Remove a node; return its leases, each with whether it had started."""
        node = self.nodes.pop(name, None)
        if node is None:
            return []
        self.slots -= node.slots
        self._loads.forget(name)
        lost = [(lease, node.has_started(lease.id)) for lease in node.leases.values()]
        for lease, _ in lost:
            del self.leases[lease.id]
        return lost


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


@dataclass(slots=True)
class _Running:
    since: float  # when it was sent, or returned what it had not started
    is_recalled: bool = False
    running_only: bool = False  # it was shortened to the mini-batch that is running


class StragglerTracker:
    """Tracks how long leases have been running."""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}  # in submission order
        self._duplicates: dict[int, int] = {}
        self._duplicated: set[tuple[int, int]] = set()  # mini-batch and attempt of those that were duplicated
        self.next_check: float | None = None  #: when a lease will have run long enough to be recalled or duplicated

    def record_sent(self, lease: Lease, now: float) -> None:
        """Record that a lease was sent."""
        self._running[lease.id] = _Running(now)

    def record_returned(self, lease: int, now: float, *, is_known: bool) -> None:
        """Record that a lease returned what it had not started, or had not reached its node when it was recalled."""
        self._running[lease] = _Running(now, is_recalled=is_known, running_only=is_known)

    def forget(self, lease: int) -> None:
        """Stop tracking a lease."""
        self._running.pop(lease, None)

    def to_recall(self, leases: Iterable[Lease], free: int, now: float) -> list[Lease]:
        """Return which of *leases*, in submission order, to recall for *free* idle slots, longest-running first."""
        room = free - sum(running.is_recalled and not running.running_only for running in self._running.values())
        chosen: list[Lease] = []
        for lease in leases:
            running = self._running[lease.id]
            if running.is_recalled or _last_attempt(lease) in self._duplicated:
                continue
            if len(chosen) >= room:
                break
            if now - running.since < _OVERDUE:
                self._check_at(running.since + _OVERDUE)
                break  # the rest were sent later
            running.is_recalled = True
            chosen.append(lease)
        return chosen

    def to_recall_unstarted(self, leases: Iterable[Lease], now: float) -> list[Lease]:
        """Return which of *leases* to recall, so that they keep only what runs.

        Duplicates are not recalled: the mini-batch that both hold has started.
        """
        chosen: list[Lease] = []
        for lease in leases:
            running = self._running[lease.id]
            if running.is_recalled or self.has_duplicate(lease.id):
                continue
            if now - running.since < _OVERDUE:  # it may not have reached its node yet
                self._check_at(running.since + _OVERDUE)
            else:
                running.is_recalled = True
                chosen.append(lease)
        return chosen

    def slowest(self, leases: Iterable[Lease], mean: float, now: float) -> Lease | None:
        """Return the lease whose last mini-batch is worth duplicating: the one that has been running it the longest.

        *leases* are those of other nodes, *mean* the mean seconds per mini-batch.
        """
        slow = max(_SLOW, _SLOW_TIMES * mean)
        candidates = ((self._running[lease.id].since, lease.id, lease) for lease in leases if self._can_duplicate(lease))
        since, _, lease = min(candidates, default=(now, 0, None))
        if lease is not None and now - since < slow:
            self._check_at(since + slow)
            return None
        return lease

    def link(self, lease: Lease, copy: Lease) -> None:
        """Record that two leases run the same mini-batch, the last of both."""
        self._duplicates[lease.id], self._duplicates[copy.id] = copy.id, lease.id
        self._duplicated.add(_last_attempt(copy))

    def unlink(self, lease: int) -> int | None:
        """Unlink a lease from its duplicate and return the duplicate's id, or None."""
        duplicate = self._duplicates.pop(lease, None)
        if duplicate is not None:
            del self._duplicates[duplicate]
        return duplicate

    def has_duplicate(self, lease: int) -> bool:
        """Return whether another lease runs the same mini-batch."""
        return lease in self._duplicates

    def _can_duplicate(self, lease: Lease) -> bool:
        return self._running[lease.id].running_only and lease.count > 0 and _last_attempt(lease) not in self._duplicated

    def _check_at(self, time: float) -> None:
        self.next_check = time if self.next_check is None else min(self.next_check, time)


def _last_attempt(lease: Lease) -> tuple[int, int]:
    return lease.stop - 1, lease.attempt


def earliest(times: Iterable[float | None]) -> float | None:
    """Return the earliest of some times; None means never."""
    return min((time for time in times if time is not None), default=None)
