"""The state machine that drives a run, against a modelled cluster in virtual time: what the flow process pays to decide.

Nothing real is started: nodes whose slots work off their leases one after the other, each mini-batch in the given time, and
a message's way in 5 ms. Counted is the CPU time of RunState alone (Dask's, SQLite's and the network's come on top), from when
every slot has had four leases. Under 0.5 CPU seconds per second, the driver needs less than half a core to decide.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bench import Bench
from measure import OURS, EngineFailedError, Table, tables

_WAY = 0.005  #: s between driver and node
_LEASES = 5_000  #: that are looked at, or one per slot where that is more
_LONGEST = 60.0  #: virtual s that are looked at
_MINI_BATCHES = 1_000_000  #: at least; more where so many slots would be through with them at once
_CLUSTERS = ((1, 2), (10, 10), (100, 10), (100, 100), (1_000, 10))  #: nodes, slots per node
_SECONDS = (0.005, 0.05, 5.0, 60.0)  #: of a mini-batch
_WITH_ALL = (0.05, 5.0)  #: the largest cluster takes long: it is modelled with these only
REFERENCE = "10,000 turns of an empty loop"
PER_LEASE, PER_SECOND, RATE = "CPU µs per lease", "CPU s of RunState per s", "leases per s"


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder():
        if bench.gate:
            yield from bench.in_turn_by_part(
                "simulation",
                "1,000 slots, 50 ms",
                PER_LEASE,
                [
                    (lambda: bench.ours("simulation:simulate", 100, 10, 0.05, 2_000), {PER_LEASE: OURS}),
                    (lambda: bench.ours("simulation:reference"), {REFERENCE: REFERENCE}),
                ],
            )
            return
        for seconds in _SECONDS:
            found: dict[str, list[dict[str, float]]] = {}
            for nodes, slots in _CLUSTERS if seconds in _WITH_ALL else _CLUSTERS[:-1]:
                once = bench.ours("simulation:simulate", nodes, slots, seconds)
                found[f"{nodes * slots:,} slots, {nodes:,} nodes"] = [once]
            for table in tables("simulation", f"mini-batches of {seconds:g} s", found, baseline=""):
                yield replace(table, baseline=next(iter(found))) if table.unit == PER_LEASE else table


@dataclass
class _Node:
    free: int
    waiting: deque = field(default_factory=deque)


class _Cluster:
    """Modelled nodes; their events come in the order of virtual time.

    Args:
        nodes, slots: How many, and how many each has.
        seconds: Of a mini-batch.
    """

    def __init__(self, nodes: int, slots: int, seconds: float) -> None:
        from prefect_parallel_run.dispatch.events import NodeOpened, SlotReady

        self._slots, self._seconds = slots, seconds
        self._nodes = {f"node-{number}": _Node(slots) for number in range(nodes)}
        self._order = itertools.count()  # events of one moment come as they were made
        self._events: list = []  # when, order, what the driver is told, the lease that has ended with it
        for name in self._nodes:
            self._tell(0.0, NodeOpened(name, slots))
        for name in self._nodes:
            for _ in range(slots):
                self._tell(0.0, SlotReady(name))

    def next_event(self) -> tuple[float, object, bool]:
        """Return when something happens next, what, and whether it is a lease that ended; its slot goes on with another."""
        now, _, event, lease = heapq.heappop(self._events)
        if lease is not None:
            node = self._nodes[lease.node]
            node.free += 1
            if node.waiting:
                self._start(node, node.waiting.popleft(), now - _WAY)
        return now, event, lease is not None

    def submit(self, lease: object, now: float) -> None:
        """Have a slot work a lease off as soon as one is free."""
        node = self._nodes[lease.node]
        if node.free:
            self._start(node, lease, now + _WAY)
        else:
            node.waiting.append(lease)

    def _start(self, node: _Node, lease: object, now: float) -> None:
        from prefect_parallel_run.dispatch.events import LeaseFinished
        from prefect_parallel_run.models import Receipt

        node.free -= 1
        facts = (1, "succeeded", 1, 1, 0, 1, "part", 0, 0, 1, 0, 0.0, self._seconds)
        receipts = [Receipt(index, *facts) for index in range(lease.start, lease.stop)]
        finished = LeaseFinished(lease.id, receipts, self._slots)
        self._tell(now + self._seconds * lease.count + _WAY, finished, lease)

    def _tell(self, when: float, event: object, lease: object = None) -> None:
        heapq.heappush(self._events, (when, next(self._order), event, lease))


def reference() -> dict[str, float]:
    """Return how long something takes that any machine can be compared by, µs."""
    began = time.process_time()
    for _ in range(100):
        for _ in range(10_000):
            pass
    return {REFERENCE: 1e6 * (time.process_time() - began) / 100}


def simulate(nodes: int, slots: int, seconds: float, least: int = _LEASES) -> dict[str, float]:
    """Drive a run on a modelled cluster for a while and return what the driver's decisions cost."""
    from prefect_parallel_run.dispatch.events import Commit, SubmitLease
    from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
    from prefect_parallel_run.models import FailureLimits, PendingWork, Tally

    planned = max(_MINI_BATCHES, round(2 * _LONGEST * nodes * slots / seconds))
    rules = SchedulingPolicy(run_max_try=3, limits=FailureLimits(error_threshold=0), max_per_lease=5_000)
    remainder = PendingWork(tally=Tally(planned=planned, items=planned), pending=((0, planned),))
    state = RunState(rules, remainder, lambda _: 1)
    cluster = _Cluster(nodes, slots, seconds)
    spent, leases, begun = 0.0, 0, None
    while True:
        now, event, is_lease = cluster.next_event()
        if begun is None and leases >= 4 * nodes * slots:
            begun, spent, leases = now, 0.0, 0
        elif begun is not None and (leases >= max(least, nodes * slots) or now > begun + _LONGEST):
            break
        leases += is_lease
        before = time.process_time()
        instructions = state.handle(event, now)
        spent += time.process_time() - before
        for instruction in instructions:
            if isinstance(instruction, SubmitLease):
                cluster.submit(instruction.lease, now)
            elif not isinstance(instruction, Commit):
                raise EngineFailedError(f"the modelled run came to an end: {instruction}")
    span = now - begun
    return {RATE: leases / span, PER_SECOND: spent / span, PER_LEASE: 1e6 * spent / leases}
