"""Which slots there are, and which leases need them. Pure.

Every lease that is out is with exactly one node. Slots are ready one by one, and a node is resized by a number: what was said
of its slots before that is out of date.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from prefect_parallel_run.dispatch.events import LeaseFinished, NodeResized, SlotReady
from prefect_parallel_run.dispatch.node_loads import Loads
from prefect_parallel_run.models import Lease


@dataclass(slots=True)
class _Node:
    slots: int
    ready: int = 0  # slots whose process has started; only these can have begun a mini-batch
    leases: dict[int, Lease] = field(default_factory=dict)  # in the order they were sent
    leaving: set[int] = field(default_factory=set)  # leases whose slots no longer count
    as_of: int = 0  # number of the resizing that slots and ready are known since
    ahead: Counter[int] = field(default_factory=Counter)  # slots that were ready before their resizing was known, by its number

    @property
    def free(self) -> int:
        """Return the slots that have nothing to do."""
        return max(0, min(self.ready, self.slots) - self.load)

    @property
    def load(self) -> int:
        """Return the leases that need its slots."""
        return len(self.leases) - len(self.leaving)

    def has_begun(self, number: int) -> bool:
        """True for a lease that runs: those do that came first, and those of slots that went."""
        staying = [lease for lease in self.leases if lease not in self.leaving]
        return number in self.leaving or number in staying[: self.ready]


class SlotAccounting:
    """The nodes of a run, their slots, and the leases that are out."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}  #: that are out, by number, in the order they were sent
        self.slots = 0  #: of all nodes
        self._nodes: dict[str, _Node] = {}
        self._early: Counter[str] = Counter()  # slots that were ready before their node was known to have joined
        self._loads = Loads()

    @property
    def nodes(self) -> list[str]:
        """Return the nodes that have joined and are not lost."""
        return list(self._nodes)

    @property
    def idle_nodes(self) -> list[str]:
        """Return the nodes that have no lease."""
        return [name for name, node in self._nodes.items() if not node.leases]

    @property
    def has_slots(self) -> bool:
        """True when some node has a slot."""
        return any(node.slots > 0 for node in self._nodes.values())

    def free(self) -> dict[str, int]:
        """Return the slots that have nothing to do, by node, of those nodes that have some."""
        return {name: node.free for name, node in self._nodes.items() if node.free}

    def is_overfull(self, name: str) -> bool:
        """True for a node with more leases than slots: one of them waits."""
        return self._nodes[name].load > self._nodes[name].slots

    def least_loaded(self) -> tuple[float, str] | None:
        """Return the least number of leases per slot, and the node that has it; None without any slot."""
        return self._loads.least()

    # Slots

    def join(self, name: str, slots: int) -> None:
        """Take note of a new node."""
        self._nodes[name] = _Node(slots, ready=min(slots, self._early.pop(name, 0)))
        self._note_load(name)
        self.slots += slots

    def note_ready(self, event: SlotReady) -> None:
        """Take note of a slot whose process has started."""
        node = self._nodes.get(event.node)
        if node is None:
            self._early[event.node] += 1
        elif event.as_of == node.as_of:
            node.ready += 1
        elif event.as_of > node.as_of:  # quicker than the answer to the resizing
            node.ahead[event.as_of] += 1

    def resize(self, event: NodeResized) -> None:
        """Take note of the slots that a node has from now on, unless something newer is known."""
        node = self._nodes.get(event.node)
        if node is None or event.as_of <= node.as_of:
            return
        node.as_of, node.ready = event.as_of, event.ready + node.ahead[event.as_of]
        node.ahead.clear()
        node.leaving = {lease for lease in event.leaving if lease in node.leases}
        self._set_slots(event.node, event.slots)

    def _set_slots(self, name: str, slots: int) -> None:
        node = self._nodes[name]
        self.slots += slots - node.slots
        node.slots = slots
        self._note_load(name)

    def _note_load(self, name: str) -> None:
        node = self._nodes[name]
        self._loads.note(name, node.load, node.slots)

    # Leases

    def send(self, lease: Lease) -> None:
        """Take note of a lease that goes out, to the node that it names."""
        self.leases[lease.id] = self._nodes[lease.node].leases[lease.id] = lease
        self._note_load(lease.node)

    def change(self, lease: Lease) -> None:
        """Take note of what is left of a lease that is out."""
        self.leases[lease.id] = self._nodes[lease.node].leases[lease.id] = lease

    def take_home(self, event: LeaseFinished) -> Lease | None:
        """Return a lease that is out no longer; None for one that was lost before."""
        lease = self.leases.pop(event.lease, None)
        if lease is None:
            return None
        node = self._nodes[lease.node]
        del node.leases[lease.id]
        node.leaving.discard(lease.id)
        self._set_slots(lease.node, event.slots if event.as_of == node.as_of else node.slots)  # else it is out of date
        node.ready = max(node.ready, min(1, node.slots))
        return lease

    def lose(self, name: str) -> list[tuple[Lease, bool]]:
        """Forget a node; return the leases that were with it, each with whether it had begun."""
        node = self._nodes.pop(name, None)
        if node is None:
            return []
        self.slots -= node.slots
        self._loads.forget(name)
        lost = [(lease, node.has_begun(lease.id)) for lease in node.leases.values()]
        for lease, _ in lost:
            del self.leases[lease.id]
        return lost
