"""100,000,000 items on 1,000 nodes that join, leave and lag: what the flow process pays for a whole run, in virtual time.

As in ``simulation`` the cluster is a model; state machine and ledger are real. 1,000,000 mini-batches of 100 items and 5 s each
run on 1,000 nodes of ten slots. The nodes join during the first minute; every five seconds one of them is lost, and another one
joins half a minute later; one in fifty is ten times slower. What Dask's scheduler, the network and the part files cost comes on
top: Dask's share per lease is in ``no-op --where``.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import Bench
from family import peak_mb
from measure import EngineFailedError, Table, tables

_WAY = 0.005  #: s between flow process and node
_ITEMS = 100  #: per mini-batch
_SECONDS = 5.0  #: of a mini-batch
_JOINING = 60.0  #: s during which the first nodes join
_LOSS_INTERVAL, _REPLACEMENT = 5.0, 30.0  #: s between two losses, and until another node replaces a lost one
_LAGGING, _SLOWER = 50, 10  #: one node in _LAGGING is _SLOWER times slower
_RUNS = ((100_000, 100), (1_000_000, 1_000))  #: mini-batches, nodes
_SLOTS = 10  #: per node


def measure(bench: Bench) -> Iterator[Table]:
    with bench.folder():
        found = {}
        for mini_batches, nodes in _RUNS[: 1 if bench.gate else None]:
            name = f"{mini_batches * _ITEMS:,} items, {nodes:,} nodes"
            found[name] = [bench.ours("scale:simulate", mini_batches, nodes)]
        yield from tables("scale", f"mini-batches of {_ITEMS} items and {_SECONDS:g} s", found, baseline="")


@dataclass
class _Node:
    seconds: float  #: of a mini-batch
    free: int
    waiting: deque[Any] = field(default_factory=deque)
    started: dict[int, float] = field(default_factory=dict)  #: by number of a running lease, virtual s


class _Cluster:
    """Modelled nodes. An event of a lease is void once the lease has another one, or has lost its node."""

    def __init__(self, nodes: int) -> None:
        self._chance = random.Random(9)
        self._nodes: dict[str, _Node] = {}
        self._joined: list[str] = []
        self._numbers = itertools.count()
        self._order = itertools.count()  # events of one moment come in the order in which they were made
        self._due: list[tuple[float, int, Any, int | None]] = []  # when, order, event, the lease that it ends
        self._ending: dict[int, int] = {}  # by lease: the order of the event that ends it
        self._leases: dict[int, Any] = {}
        self.lost = 0  #: nodes
        for number in range(nodes):
            self._join(_JOINING * number / nodes)
        self._tell(_JOINING + _LOSS_INTERVAL, None)

    def next_event(self) -> tuple[float, Any]:
        """Return when something happens next, and what."""
        from prefect_parallel_run.dispatch.events import NodeOpened

        while True:
            now, order, event, lease = heapq.heappop(self._due)
            if lease is not None:
                if self._ending.get(lease) != order:
                    continue
                self._end(self._leases.pop(lease), now - _WAY)
                del self._ending[lease]
            if event is None:
                event = self._lose(now)
            elif isinstance(event, NodeOpened):
                self._joined.append(event.node)
            return now, event

    def submit(self, lease: Any, now: float) -> None:
        """Have a slot run a lease as soon as one is free."""
        node = self._nodes[lease.node]
        self._leases[lease.id] = lease
        if node.free:
            self._start(node, lease, now + _WAY)
        else:
            node.waiting.append(lease)

    def recall(self, number: int, now: float) -> None:
        """Have a lease end with the mini-batch that it runs."""
        from prefect_parallel_run.dispatch.events import LeaseShortened

        lease = self._leases.get(number)
        if lease is None:
            return
        node, at = self._nodes[lease.node], now + _WAY
        if number in node.started:
            ran = int((at - node.started[number]) / node.seconds)
            stop = min(lease.start + ran + 1, lease.stop)
            self._finish(node, lease, stop)
        else:
            node.waiting.remove(lease)
            del self._leases[number]
            stop = lease.start
        self._tell(at + _WAY, LeaseShortened(number, stop))
        if stop == lease.start:
            self._tell(at + 2 * _WAY, self._finished(lease, stop, 0.0))

    def _join(self, when: float) -> None:
        from prefect_parallel_run.dispatch.events import NodeOpened, SlotReady

        name = f"node-{next(self._numbers)}"
        slower = _SLOWER if self._chance.randrange(_LAGGING) == 0 else 1
        self._nodes[name] = _Node(_SECONDS * slower, _SLOTS)
        self._tell(when, NodeOpened(name, _SLOTS))
        for _ in range(_SLOTS):
            self._tell(when, SlotReady(name))

    def _lose(self, now: float) -> Any:
        from prefect_parallel_run.dispatch.events import NodeLeft

        name = self._joined.pop(self._chance.randrange(len(self._joined)))
        node = self._nodes.pop(name)
        for number in [*node.started, *(lease.id for lease in node.waiting)]:
            self._ending.pop(number, None)
            del self._leases[number]
        self.lost += 1
        self._join(now + _REPLACEMENT)
        self._tell(now + _LOSS_INTERVAL, None)
        return NodeLeft(name)

    def _start(self, node: _Node, lease: Any, now: float) -> None:
        node.free -= 1
        node.started[lease.id] = now
        self._finish(node, lease, lease.stop)

    def _finish(self, node: _Node, lease: Any, stop: int) -> None:
        """Plan the end of a running lease, after the mini-batch before *stop*."""
        when = node.started[lease.id] + node.seconds * (stop - lease.start) + _WAY
        self._ending[lease.id] = self._tell(when, self._finished(lease, stop, node.seconds), lease.id)

    def _end(self, lease: Any, now: float) -> None:
        node = self._nodes[lease.node]
        del node.started[lease.id]
        node.free += 1
        if node.waiting:
            self._start(node, node.waiting.popleft(), now)

    @staticmethod
    def _finished(lease: Any, stop: int, seconds: float) -> Any:
        from prefect_parallel_run.dispatch.events import LeaseFinished
        from prefect_parallel_run.models import Receipt

        facts = ("succeeded", _ITEMS, _ITEMS, 0, _ITEMS, f"{lease.node}.part", 0, 0, 1_000, 0, 0.0, seconds)
        return LeaseFinished(lease.id, [Receipt(index, lease.attempt, *facts) for index in range(lease.start, stop)], _SLOTS)

    def _tell(self, when: float, event: Any, lease: int | None = None) -> int:
        order = next(self._order)
        heapq.heappush(self._due, (when, order, event, lease))
        return order


def simulate(mini_batches: int, nodes: int) -> dict[str, float]:
    """Drive a whole run and return what it costs the flow process; every mini-batch succeeds exactly once."""
    from prefect_parallel_run.dispatch.events import Abort, Commit, Finish, GiveUp, Recall, SubmitLease
    from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
    from prefect_parallel_run.models import FailureLimits
    from prefect_parallel_run.runs.ledger import Ledger

    folder = Path(tempfile.mkdtemp())
    try:
        before_mb = peak_mb()
        spent: Counter[str] = Counter()
        began = time.process_time()
        with Ledger.create(folder / "ledger.sqlite", itertools.repeat(_ITEMS, mini_batches)) as ledger:
            spent["ledger"] += time.process_time() - began
            policy = SchedulingPolicy(run_max_try=3, limits=FailureLimits(), max_per_lease=5_000)
            state = RunState(policy, ledger.pending_work(), lambda _: _ITEMS)
            cluster, leases, now, ended = _Cluster(nodes), 0, 0.0, False
            while not ended:
                now, event = cluster.next_event()
                began = time.process_time()
                instructions = state.handle(event, now)
                spent["decisions"] += time.process_time() - began
                for instruction in instructions:
                    match instruction:
                        case SubmitLease(lease):
                            leases += 1
                            cluster.submit(lease, now)
                        case Recall(lease):
                            cluster.recall(lease, now)
                        case Commit(decided):
                            began = time.process_time()
                            ledger.commit(decided)
                            spent["ledger"] += time.process_time() - began
                        case Finish():
                            ended = True
                        case Abort() | GiveUp():
                            raise EngineFailedError(f"the modelled run came to an end: {instruction}")
            tally = ledger.tally()
            if (tally.succeeded, tally.items) != (mini_batches, mini_batches * _ITEMS):
                raise EngineFailedError(f"the modelled run lost something: {tally}")
        size = os.stat(folder / "ledger.sqlite").st_size
    finally:
        shutil.rmtree(folder)
    return {
        "minutes of the run": now / 60,
        "nodes lost": cluster.lost,
        "leases per s": leases / now,
        "CPU s of decisions": spent["decisions"],
        "CPU s of the ledger": spent["ledger"],
        "% of a core, both": 100 * sum(spent.values()) / now,
        "MB of memory more": peak_mb() - before_mb,
        "MB of ledger": size / 1e6,
    }
