"""The state of a run: events in, instructions out. Pure: no clock of its own, no files, no cluster.

Every planned mini-batch is in exactly one of: pending (never handed out), returned (handed out, but not run through no fault
of its own), leased, waiting (between two tries, or while its guilty items are looked for), succeeded, failed. Only ``handle``
moves it, and only a receipt of a lease that is still out decides anything: a late one is refused, so nothing is ever decided
twice. While the plan is growing, planned mini-batches are added behind the others.

A mini-batch may be in two leases that are out, as the last of both (speculative_execution). It is still one try: the first
success decides it, and takes it out of the other lease; a failure takes it out of the lease that failed, and leaves it to the
other.

While the run is paused nothing is handed out, and leases are called back: they keep the mini-batches that are running.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from prefect_parallel_run.dispatch.attempts import try_again
from prefect_parallel_run.dispatch.bisection import Piece
from prefect_parallel_run.dispatch.bisections import Isolations
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Continued,
    Event,
    Finish,
    GiveUp,
    Hold,
    Instruction,
    LeaseFinished,
    LeaseShortened,
    LimitsChanged,
    NodeJoined,
    NodeLeft,
    NodeResized,
    NodesOpening,
    Ordered,
    Paused,
    PlanEnded,
    PlanGrew,
    ProcessesChanged,
    Recall,
    Release,
    Resize,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.lease_size import LeaseSizer
from prefect_parallel_run.dispatch.pending_work import belonging, is_last, lost, missing, split, without_last
from prefect_parallel_run.dispatch.slot_accounting import SlotAccounting
from prefect_parallel_run.dispatch.speculation import Stragglers, after
from prefect_parallel_run.models import NOT_ISOLATED, BisectionState, Lease, PendingWork, Receipt, Tally
from prefect_parallel_run.runs.limits import FailureLimits

_AHEAD_SECONDS = 0.5  #: leases are sent ahead of need only while mini-batches are shorter than this


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    """What the configuration says about tries."""

    run_max_try: int
    limits: FailureLimits
    retry_delay: float = 0.0  #: s
    most_per_lease: int = 1000
    node_patience: float = 60.0  #: s without any node before the run gives up
    fetches: bool = False  #: nodes fetch the files of a lease before it runs: one is sent ahead for every slot
    speculative: bool = False  #: run a mini-batch that takes long a second time, where a slot has nothing else to do
    shared_workers: bool = False  #: others keep them busy too: a lease may wait there and not have begun
    isolate: bool = False  #: halve a mini-batch whose tries are used up until the guilty items stand alone


class RunState:
    """Decides what happens next.

    Args:
        rules: What the configuration says about tries.
        remainder: What is left to do.
        items_of: Returns the planned items of a mini-batch; asked only for those that died or were lost.
    """

    def __init__(self, rules: SchedulingPolicy, remainder: PendingWork, items_of: Callable[[int], int]) -> None:
        self._rules, self._items_of = rules, items_of
        self._planned, self._items = remainder.tally.planned, remainder.tally.items
        self._succeeded, self._succeeded_items = remainder.tally.succeeded, remainder.tally.succeeded_items
        self._failed, self._failed_items = remainder.tally.failed, remainder.tally.failed_items
        self._rows = remainder.tally.rows
        self._is_growing = remainder.tally.is_growing
        self._pending = deque(remainder.pending)
        self._pending_count = sum(stop - start for start, stop in remainder.pending)
        self._returned: deque[tuple[int, int, int]] = deque()  # start, stop, try
        self._due: list[tuple[float, int, int]] = [(0.0, index, attempt) for index, attempt, *_ in remainder.waiting]
        heapq.heapify(self._due)
        self._waiting = {index: items for index, _, items, _ in remainder.waiting}
        self._granted = {index: granted for index, _, _, granted in remainder.waiting if granted}
        self._waiting_items = sum(self._waiting.values())
        self._isolations = Isolations(rules.run_max_try)
        for one in remainder.isolating:
            self._go_on_isolating(one)
        self._occupancy = SlotAccounting()
        self._last_lease = 0
        self._now = float("-inf")
        self._stragglers = Stragglers()
        self._sizer = LeaseSizer(rules.most_per_lease)
        self._holding = False
        self._paused = False
        self._processes: int | None = None  # per node, once a person has said so
        self._resizings = 0
        self._ended = False
        self._opening = 0  # nodes that are being opened
        self._nodeless_since: float | None = None

    @property
    def tally(self) -> Tally:
        """Return the counts so far."""
        return Tally(
            planned=self._planned,
            succeeded=self._succeeded,
            failed=self._failed,
            waiting=len(self._waiting),
            items=self._items,
            succeeded_items=self._succeeded_items,
            failed_items=self._failed_items,
            waiting_items=self._waiting_items,
            rows=self._rows,
            all_scheduled=self._pending_count == 0 and not self._is_growing,
            is_growing=self._is_growing,
        )

    @property
    def next_due(self) -> float | None:
        """Return when there will be something to do without an event: a try is due, a lease takes long; or None."""
        due = self._due[0][0] if self._due else None
        if due is not None and due <= self._now:  # it waits for a slot, not for a moment
            due = None
        return after([due, self._stragglers.next_look])

    @property
    def backlog(self) -> int:
        """Return how many mini-batches are not handed out."""
        return (
            self._pending_count
            + len(self._due)
            + len(self._isolations)
            + sum(stop - start for start, stop, _ in self._returned)
        )

    @property
    def slots(self) -> int:
        """Return the slots of all nodes."""
        return self._occupancy.slots

    @property
    def is_paused(self) -> bool:
        """True while nothing is handed out because a person wants that."""
        return self._paused

    @property
    def mean_seconds(self) -> float:
        """Return how long a mini-batch takes, s; infinite while nothing is known."""
        return self._sizer.mean

    @property
    def idle_nodes(self) -> list[str]:
        """Return the nodes that have no lease."""
        return self._occupancy.idle_nodes

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take note of *event* at *now* (monotonic clock, s) and return what to do, in order."""
        self._now = now
        if self._ended:  # what was finished until all had stopped still counts
            return list(self._take_home(event, now)) if isinstance(event, LeaseFinished) else []
        instructions: list[Instruction] = []
        match event:
            case NodeJoined(node, slots):
                instructions += self._join(node, slots)
            case SlotReady():
                self._occupancy.note_ready(event)
            case NodeResized():
                self._occupancy.resize(event)
            case NodeLeft(node):
                instructions += self._lose(node, now)
            case NodesOpening(nodes):
                self._opening = nodes
            case LeaseFinished():
                instructions += self._take_home(event, now)
            case LeaseShortened(lease, stop):
                self._shorten(lease, stop, now)
            case PlanGrew(items):
                self._grow(items)
            case PlanEnded():
                self._is_growing = False
            case Paused() | Continued() | LimitsChanged() | ProcessesChanged():
                instructions += self._obey(event)
            case Tick():
                pass
        return [*instructions, *self._go_on(now)]

    def _obey(self, order: Ordered) -> Iterator[Instruction]:
        match order:
            case Paused() | Continued():
                self._paused = isinstance(order, Paused)
            case LimitsChanged(limits):
                self._rules = replace(self._rules, limits=limits)
            case ProcessesChanged(count):
                self._processes, self._resizings = count, self._resizings + 1
                for node in self._occupancy.nodes:
                    yield Resize(node, count, self._resizings)

    def end(self) -> None:
        """Hand out nothing more; leases that still come home count."""
        self._ended = True

    def _grow(self, items: list[int]) -> None:
        start, self._planned = self._planned, self._planned + len(items)
        if self._pending and self._pending[-1][1] == start:
            start = self._pending.pop()[0]
        self._pending.append((start, self._planned))
        self._pending_count += len(items)
        self._items += sum(items)

    def _join(self, name: str, slots: int) -> Iterator[Instruction]:
        self._occupancy.join(name, slots)
        if self._processes is not None and slots != self._processes:  # it was opened before that was said
            yield Resize(name, self._processes, self._resizings)

    # What came of leases

    def _take_home(self, event: LeaseFinished, now: float) -> Iterator[Instruction]:
        lease = self._occupancy.take_home(event)
        if lease is None:  # lost before, and its mini-batches have been leased again: what it says no longer counts
            return
        self._stragglers.forget(lease.id)
        if lease.piece is not None:
            yield from self._take_piece_home(lease, event.receipts)
            return
        if (twin := self._stragglers.part(lease.id)) is not None:
            if any(receipt.outcome == "succeeded" for receipt in belonging(event.receipts, lease) if is_last(receipt, lease)):
                yield self._take_last_from(twin)
            else:
                lease = without_last(lease)
        receipts = {receipt.mini_batch: self._complete(receipt) for receipt in belonging(event.receipts, lease)}
        if receipts:
            self._sizer.observe(len(receipts), sum(receipt.seconds for receipt in receipts.values()))
            yield Commit([(receipt, self._decide(receipt, now)) for receipt in receipts.values()])
        self._returned.extend(missing(lease, receipts))

    def _take_last_from(self, number: int) -> Recall:
        """Have a lease stopped whose last mini-batch, all that it still runs, has been decided elsewhere."""
        self._occupancy.change(without_last(self._occupancy.leases[number]))
        return Recall(number, at_once=True)

    def _shorten(self, number: int, stop: int | None, now: float) -> None:
        """Take back what a lease has not begun."""
        lease = self._occupancy.leases.get(number)
        if lease is None or self._stragglers.has_twin(number):  # it came home meanwhile; or an answer that nobody waits for
            return
        if stop is not None and lease.start <= stop < lease.stop:
            if lease.piece is not None:
                self._isolations.put_back(lease.start, Piece(*lease.piece))
            else:
                self._returned.append((stop, lease.stop, lease.attempt))
            self._occupancy.change(replace(lease, stop=stop))
        self._stragglers.note_answer(number, now, is_known=stop is not None)

    def _complete(self, receipt: Receipt) -> Receipt:
        """Return *receipt* with its items: a process that died could not say how many it had."""
        if receipt.items >= 0:
            return receipt
        items = self._items_of(receipt.mini_batch)
        return receipt._replace(items=items, failed=items)

    def _decide(self, receipt: Receipt, now: float) -> str:
        """Book one receipt and return the state its mini-batch is in now."""
        index = receipt.mini_batch
        if self._waiting:
            self._waiting_items -= self._waiting.pop(index, 0)
        if receipt.outcome == "succeeded":
            self._succeeded += 1
            self._succeeded_items += receipt.succeeded
            self._failed_items += receipt.failed
            self._rows += receipt.rows
            return "succeeded"
        if try_again(receipt, self._rules.run_max_try + self._granted.get(index, 0)):
            self._waiting[index] = receipt.items
            self._waiting_items += receipt.items
            heapq.heappush(self._due, (now + self._rules.retry_delay, index, receipt.attempt + 1))
            return "waiting"
        if self._rules.isolate and receipt.items > 1 and receipt.outcome not in NOT_ISOLATED:
            self._isolations.begin(index, receipt.attempt, receipt.items)
            self._waiting[index] = receipt.items
            self._waiting_items += receipt.items
            return "isolating"
        self._failed += 1
        self._failed_items += receipt.items
        return "failed"

    # Isolating guilty items

    def _go_on_isolating(self, one: BisectionState) -> None:
        self._isolations.go_on(one)
        self._waiting[one.mini_batch] = one.undecided
        self._waiting_items += one.undecided

    def _take_piece_home(self, lease: Lease, receipts: Iterable[Receipt]) -> Iterator[Instruction]:
        if not lease.count:  # called back, and among the pieces to be run since then
            return
        index, piece = lease.start, Piece(*(lease.piece or (0, 0)))
        receipt = next(iter(belonging(receipts, lease)), None)
        if receipt is None:  # not run, and not to blame
            self._isolations.put_back(index, piece)
        else:
            yield self._decide_piece(index, piece, receipt)

    def _decide_piece(self, index: int, piece: Piece, receipt: Receipt) -> CommitPiece:
        """Book what came of a piece."""
        found = self._isolations.note(index, piece, receipt)
        self._waiting[index] -= found.decided
        self._waiting_items -= found.decided
        self._failed_items += found.failed
        if receipt.outcome == "succeeded":
            self._succeeded_items += receipt.succeeded
            self._rows += receipt.rows
        if found.state != "isolating":
            del self._waiting[index]
            self._succeeded += found.state == "succeeded"
            self._failed += found.state == "failed"
        return CommitPiece(receipt, piece, found.failed, found.state)

    def _lose_piece(self, lease: Lease) -> Iterator[Instruction]:
        """Run a piece again that was lost with its node; one that takes every node along has failed."""
        if not lease.count:
            return
        index, piece = lease.start, Piece(*(lease.piece or (0, 0)))
        if self._isolations.is_given_up(index, piece):
            yield self._decide_piece(index, piece, lost(lease, piece.items))
        else:
            self._isolations.put_back(index, piece)

    def _lose(self, name: str, now: float) -> Iterator[Instruction]:
        """Take back the leases of a node that is gone. One that was alone and running is charged a try."""
        charged: list[tuple[Receipt, str]] = []
        for lease, has_begun in self._occupancy.lose(name):
            self._stragglers.forget(lease.id)
            had_twin = self._stragglers.part(lease.id) is not None
            if had_twin:  # which goes on; the rest is finished, and only its receipts are lost
                lease = without_last(lease)  # noqa: PLW2901  what is left of it
            if lease.piece is not None:
                yield from self._lose_piece(lease)
            elif lease.count == 1 and has_begun and not had_twin:
                receipt = lost(lease, self._items_of(lease.start))
                charged.append((receipt, self._decide(receipt, now)))
            elif lease.count:
                self._returned.extend(split(lease, started=has_begun))
        if charged:
            yield Commit(charged)

    # What to do next

    def _go_on(self, now: float) -> Iterator[Instruction]:
        tally = self.tally
        breach = self._rules.limits.first_breach(tally)
        if breach is not None:
            self._ended = True
            yield Abort(breach)
        elif tally.finished == tally.planned and not self._is_growing:
            self._ended = True
            yield Finish()
        elif self._is_nowhere(now):
            self._ended = True
            yield GiveUp(slots_failed=bool(self._occupancy.nodes))
        else:
            yield from self._hold_or_release(tally)
            if self._paused:
                yield from self._call_back(now)
            else:
                yield from self._hand_out(now)
                yield from self._help_stragglers(now)

    def _is_nowhere(self, now: float) -> bool:
        """True when no slot is left anywhere: at once if nodes are there but cannot start the script, else after a while.

        Never while a node is being opened, which may take as long as an environment is built.
        """
        if self._opening or self._occupancy.has_slots:
            self._nodeless_since = None
            return False
        if self._occupancy.nodes:
            return not self._occupancy.leases  # leases that are still out may bring receipts home
        if self._nodeless_since is None:
            self._nodeless_since = now
        return now - self._nodeless_since > self._rules.node_patience

    def _hold_or_release(self, tally: Tally) -> Iterator[Instruction]:
        breach = self._rules.limits.near_breach(tally, isolates=self._rules.isolate)
        if breach is not None and not self._holding:
            yield Hold(breach)
        elif breach is None and self._holding:
            yield Release()
        self._holding = breach is not None

    def _hand_out(self, now: float) -> Iterator[Instruction]:
        while (name := self._hungriest()) is not None and (lease := self._next_lease(name, now)) is not None:
            yield self._send(lease, now)

    def _send(self, lease: Lease, now: float) -> SubmitLease:
        self._occupancy.send(lease)
        self._stragglers.note_sent(lease, now)
        return SubmitLease(lease)

    def _call_back(self, now: float) -> Iterator[Instruction]:
        """Take back what leases have not begun; what runs goes on."""
        for lease in self._stragglers.to_call_back(self._occupancy.leases.values(), now):
            yield Recall(lease.id, at_once=False)

    def _help_stragglers(self, now: float) -> Iterator[Instruction]:
        """Where nothing is left to hand out, let slots that have nothing to do help those that are behind."""
        self._stragglers.next_look = None
        if self._pending or self._returned or self._holding or self._is_growing:
            return
        free = self._occupancy.free()
        if not free:
            return
        some = [lease for lease in self._occupancy.leases.values() if lease.piece is None and self._may_give_back(lease)]
        for lease in self._stragglers.to_ask(some, sum(free.values()), now):
            yield Recall(lease.id, at_once=False)
        if self._rules.speculative:
            yield from self._run_twice(free, now)

    def _may_give_back(self, lease: Lease) -> bool:
        """True for a lease that may hold something that it has not begun, or must say so before it can be helped."""
        is_behind = lease.count > 1 or self._occupancy.is_overfull(lease.node)
        return is_behind or self._rules.speculative or self._rules.shared_workers

    def _run_twice(self, free: dict[str, int], now: float) -> Iterator[Instruction]:
        """Run mini-batches that take long a second time, on other nodes."""
        for name, slots in free.items():
            for _ in range(slots):
                others = [lease for lease in self._occupancy.leases.values() if lease.node != name and lease.piece is None]
                slow = self._stragglers.to_copy(others, self._sizer.mean, now)
                if slow is None:
                    break
                copy = self._lease(name, slow.stop - 1, slow.stop, slow.attempt)
                self._stragglers.pair(slow, copy)
                yield self._send(copy, now)

    def _hungriest(self) -> str | None:
        """Return the node with the most room for leases per slot, or None when all have what they need."""
        ahead = 2 if self._rules.fetches or self._sizer.mean < _AHEAD_SECONDS else 1
        load, name = self._occupancy.least_loaded() or (ahead, None)
        return name if load < ahead else None

    def _next_lease(self, node: str, now: float) -> Lease | None:
        """Return what *node* should do next: tries that are due, then what came back, then new mini-batches."""
        if self._due and self._due[0][0] <= now:
            _, index, attempt = heapq.heappop(self._due)
            return self._lease(node, index, index + 1, attempt)
        if self._isolations:
            index, attempt, piece = self._isolations.take()
            return self._lease(node, index, index + 1, attempt, piece)
        for _ in range(len(self._returned)):
            start, stop, attempt = self._returned.popleft()
            if attempt > 1 or not self._holding:
                cut = self._cut(start, stop, stop - start)
                if cut < stop:
                    self._returned.appendleft((cut, stop, attempt))
                return self._lease(node, start, cut, attempt)
            self._returned.append((start, stop, attempt))
        if self._pending and not self._holding:
            start, stop = self._pending.popleft()
            cut = self._cut(start, stop, 0)
            if cut < stop:
                self._pending.appendleft((cut, stop))
            self._pending_count -= cut - start
            return self._lease(node, start, cut, 1)
        return None

    def _cut(self, start: int, stop: int, more: int) -> int:
        """Return where the next lease ends that begins at *start*; *more* are not handed out either, beyond what is queued."""
        left = more + self._pending_count + sum(stop - start for start, stop, _ in self._returned)
        return min(stop, start + self._sizer.size(left, self._occupancy.slots))

    def _lease(self, node: str, start: int, stop: int, attempt: int, piece: Piece | None = None) -> Lease:
        self._last_lease += 1
        return Lease(id=self._last_lease, node=node, start=start, stop=stop, attempt=attempt, piece=piece)
