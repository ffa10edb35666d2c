"""The state machine that drives a run, against a modelled cluster in virtual time: what the flow process pays to decide.

Nothing real is started: nodes whose slots work off their leases one after the other, each mini-batch in the given time, and
a message's way in 5 ms. Counted is the CPU time of RunState alone (Dask's, SQLite's and the network's come on top), from when
every slot has had its first lease. Under 0.5 CPU seconds per second, the driver needs less than half a core to decide.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench import Bench
from measure import OURS, EngineFailedError, Table, tables

_WAY = 0.005  #: s between driver and node
_MOST_LEASES = 5_000  #: that are looked at
_LONGEST = 60.0  #: virtual s that are looked at
_MINI_BATCHES = 1_000_000  #: at least; more where so many slots would be through with them at once
#: nodes, slots per node
_CLUSTERS = ((1, 2), (10, 10), (100, 10), (100, 100), (1_000, 10))
_SECONDS = (0.005, 0.05, 5.0, 60.0)
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
            for nodes, slots in _CLUSTERS:
                once = bench.ours("simulation:simulate", nodes, slots, seconds)
                found[f"{nodes * slots:,} slots, {nodes:,} nodes"] = [once]
            yield from tables("simulation", f"mini-batches of {seconds:g} s", found, baseline=next(iter(found)))


@dataclass
class _Node:
    free: int
    waiting: deque = field(default_factory=deque)


def reference() -> dict[str, float]:
    """Return how long something takes that any machine can be compared by, µs."""
    began = time.process_time()
    for _ in range(100):
        for _ in range(10_000):
            pass
    return {REFERENCE: 1e6 * (time.process_time() - began) / 100}


def simulate(nodes: int, slots: int, seconds: float, most_leases: int = _MOST_LEASES) -> dict[str, float]:
    """Drive a run on a modelled cluster for a while and return what the driver's decisions cost."""
    from prefect_parallel_run.dispatch.messages import Commit, LeaseFinished, NodeJoined, SlotReady, SubmitLease
    from prefect_parallel_run.dispatch.state import RunRules, RunState
    from prefect_parallel_run.policy.limits import FailureLimits
    from prefect_parallel_run.records import Receipt, Remainder, Tally

    planned = max(_MINI_BATCHES, round(2 * _LONGEST * nodes * slots / seconds))
    rules = RunRules(run_max_try=3, limits=FailureLimits(error_threshold=0), most_per_lease=5_000)
    remainder = Remainder(tally=Tally(planned=planned, items=planned), pending=((0, planned),))
    state = RunState(rules, remainder, lambda _: 1)
    names = [f"node-{number}" for number in range(nodes)]
    cluster = {name: _Node(slots) for name in names}
    order = itertools.count()
    # when, a number that no two share, what the driver is told, the lease that the node has ended with it
    events = [(0.0, next(order), NodeJoined(name, slots), None) for name in names]
    events += [(0.0, next(order), SlotReady(name), None) for name in names for _ in range(slots)]
    heapq.heapify(events)
    spent, leases, committed, begun = 0.0, 0, 0, None

    def start(lease: object, now: float) -> None:
        """Have a slot work the lease off; the driver hears of it a message's way later."""
        facts = (1, "succeeded", 1, 1, 0, 1, "part", 0, 0, 1, 0, 0.0, seconds)
        receipts = [Receipt(index, *facts) for index in range(lease.start, lease.stop)]
        finished = LeaseFinished(lease.id, receipts, slots)
        heapq.heappush(events, (now + seconds * lease.count + 2 * _WAY, next(order), finished, lease))

    while events:
        now, _, event, ended = heapq.heappop(events)
        if begun is None and leases >= nodes * slots:
            begun, spent, leases = now, 0.0, 0
        elif begun is not None and (leases >= most_leases or now > begun + _LONGEST):
            break
        if ended is not None:
            leases += 1
            node = cluster[ended.node]
            node.free += 1
            if node.waiting:
                node.free -= 1
                start(node.waiting.popleft(), now - _WAY)
        before = time.process_time()
        instructions = state.handle(event, now)
        spent += time.process_time() - before
        for instruction in instructions:
            if isinstance(instruction, SubmitLease):
                node = cluster[instruction.lease.node]
                if node.free:
                    node.free -= 1
                    start(instruction.lease, now)
                else:
                    node.waiting.append(instruction.lease)
            elif isinstance(instruction, Commit):
                committed += len(instruction.decided)
            else:
                raise EngineFailedError(f"the modelled run came to an end: {instruction}")
    span = now - (begun or 0.0)
    return {RATE: leases / span, PER_SECOND: spent / span, PER_LEASE: 1e6 * spent / leases}
