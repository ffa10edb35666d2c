"""The state of a run: takes events, returns instructions. Pure: no clock, no files, no cluster.

Every planned mini-batch is in exactly bisection of: pending (never leased), returned (leased, but did not run),
leased, waiting (between two attempts, or under bisection), succeeded, failed. Only ``handle`` moves it, and only a receipt
of an unfinished lease decides anything: a late receipt is ignored, so nothing is ever decided twice. While the plan is
growing, new mini-batches are appended.

A mini-batch may be the last of two unfinished leases (speculative_execution). They count as one attempt: the first success
decides it and removes it from the other lease; a failure only removes it from the failed lease.

While the run is paused nothing is handed out, and leases are recalled: they keep only the running mini-batches.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from prefect_parallel_run.dispatch.bisection import Bisections, Piece
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Continued,
    ControlCommand,
    Event,
    Finish,
    GiveUp,
    Instruction,
    LeaseFinished,
    LeaseShortened,
    LimitsChanged,
    NodeJoined,
    NodeLeft,
    NodeResized,
    NodesOpening,
    Paused,
    PauseScheduling,
    PlanEnded,
    PlanGrew,
    ProcessesChanged,
    Recall,
    Resize,
    ResumeScheduling,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.slot_accounting import SlotAccounting
from prefect_parallel_run.dispatch.speculation import StragglerTracker, earliest
from prefect_parallel_run.dispatch.work_queue import (
    LeaseSizer,
    is_last,
    lost_receipt,
    matching,
    should_retry,
    split,
    without_last,
    without_receipt,
)
from prefect_parallel_run.models import NOT_ISOLATED, BisectionState, Lease, PendingWork, Receipt, Tally
from prefect_parallel_run.runs.limits import FailureLimits

_AHEAD_SECONDS = 0.5  #: s: a slot gets a second lease in advance only while mini-batches are shorter than this


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    """The configuration of scheduling, retries and failure limits."""

    run_max_try: int
    limits: FailureLimits
    retry_delay: float = 0.0  #: s
    max_per_lease: int = 1000
    node_patience: float = 60.0  #: s without any node after which the run fails
    fetches: bool = False  #: nodes prefetch the files of a lease, so every slot gets one in advance
    speculative: bool = False  #: duplicate slow mini-batches on idle slots
    shared_workers: bool = False  #: other users share the workers, so a lease may wait there
    isolate: bool = False  #: bisect a mini-batch whose attempts are used up


class RunState:
    """Decides what a run does next.

    Args:
        policy: Scheduling, retries and limits.
        pending_work: Mini-batches without a final outcome, and the counts so far.
        items_of: Returns the number of items of a mini-batch; only called when its process died or its node was lost.
    """

    def __init__(self, policy: SchedulingPolicy, pending_work: PendingWork, items_of: Callable[[int], int]) -> None:
        self._policy, self._items_of = policy, items_of
        self._planned, self._items = pending_work.tally.planned, pending_work.tally.items
        self._succeeded, self._succeeded_items = pending_work.tally.succeeded, pending_work.tally.succeeded_items
        self._failed, self._failed_items = pending_work.tally.failed, pending_work.tally.failed_items
        self._rows = pending_work.tally.rows
        self._is_growing = pending_work.tally.is_growing
        self._pending = deque(pending_work.pending)
        self._pending_count = sum(stop - start for start, stop in pending_work.pending)
        self._returned: deque[tuple[int, int, int]] = deque()  # start, stop, attempt
        self._due: list[tuple[float, int, int]] = [(0.0, index, attempt) for index, attempt, *_ in pending_work.waiting]
        heapq.heapify(self._due)
        self._waiting = {index: items for index, _, items, _ in pending_work.waiting}
        self._extra_attempts = {index: extra for index, _, _, extra in pending_work.waiting if extra}
        self._waiting_items = sum(self._waiting.values())
        self._bisections = Bisections(policy.run_max_try)
        for bisection in pending_work.isolating:
            self._resume_bisection(bisection)
        self._accounting = SlotAccounting()
        self._last_lease = 0
        self._now = float("-inf")
        self._stragglers = StragglerTracker()
        self._sizer = LeaseSizer(policy.max_per_lease)
        self._is_holding = False
        self._paused = False
        self._processes: int | None = None  # per node, once a user has changed it
        self._resizes = 0
        self._ended = False
        self._opening = 0  # number of nodes that are being opened
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
        """Return when something is due without an event (a retry, a slow lease), or None."""
        due = self._due[0][0] if self._due else None
        if due is not None and due <= self._now:  # it waits for a slot, not for a time
            due = None
        return earliest([due, self._stragglers.next_check])

    @property
    def backlog(self) -> int:
        """Return the number of mini-batches and pieces that are not leased."""
        return (
            self._pending_count
            + len(self._due)
            + len(self._bisections)
            + sum(stop - start for start, stop, _ in self._returned)
        )

    @property
    def slots(self) -> int:
        """Return the number of slots of all nodes."""
        return self._accounting.slots

    @property
    def is_paused(self) -> bool:
        """True while a user has paused the run."""
        return self._paused

    @property
    def mean_seconds(self) -> float:
        """Return the mean duration of a mini-batch in s; infinite before the first lease ends."""
        return self._sizer.mean

    @property
    def idle_nodes(self) -> list[str]:
        """Return the names of nodes without a lease."""
        return self._accounting.idle_nodes

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Apply *event* at *now* (monotonic clock, s) and return the resulting instructions, in order."""
        self._now = now
        if self._ended:  # leases that finished before they were stopped still count
            return list(self._complete_lease(event, now)) if isinstance(event, LeaseFinished) else []
        instructions: list[Instruction] = []
        match event:
            case NodeJoined(node, slots):
                instructions += self._join(node, slots)
            case SlotReady():
                self._accounting.record_ready(event)
            case NodeResized():
                self._accounting.resize(event)
            case NodeLeft(node):
                instructions += self._remove_node(node, now)
            case NodesOpening(nodes):
                self._opening = nodes
            case LeaseFinished():
                instructions += self._complete_lease(event, now)
            case LeaseShortened(lease, stop):
                self._shorten(lease, stop, now)
            case PlanGrew(items):
                self._grow(items)
            case PlanEnded():
                self._is_growing = False
            case Paused() | Continued() | LimitsChanged() | ProcessesChanged():
                instructions += self._apply_command(event)
            case Tick():
                pass
        return [*instructions, *self._next_instructions(now)]

    def _apply_command(self, command: ControlCommand) -> Iterator[Instruction]:
        match command:
            case Paused() | Continued():
                self._paused = isinstance(command, Paused)
            case LimitsChanged(limits):
                self._policy = replace(self._policy, limits=limits)
            case ProcessesChanged(count):
                self._processes, self._resizes = count, self._resizes + 1
                for node in self._accounting.nodes:
                    yield Resize(node, count, self._resizes)

    def stop(self) -> None:
        """Stop handing out leases; receipts that still arrive count."""
        self._ended = True

    def _grow(self, items: list[int]) -> None:
        start, self._planned = self._planned, self._planned + len(items)
        if self._pending and self._pending[-1][1] == start:
            start = self._pending.pop()[0]
        self._pending.append((start, self._planned))
        self._pending_count += len(items)
        self._items += sum(items)

    def _join(self, name: str, slots: int) -> Iterator[Instruction]:
        self._accounting.add_node(name, slots)
        if self._processes is not None and slots != self._processes:  # the node was opened before the change
            yield Resize(name, self._processes, self._resizes)

    # Outcomes of leases

    def _complete_lease(self, event: LeaseFinished, now: float) -> Iterator[Instruction]:
        lease = self._accounting.complete(event)
        if lease is None:  # lost earlier, and its mini-batches were leased again: its receipts are ignored
            return
        self._stragglers.forget(lease.id)
        if lease.piece is not None:
            yield from self._complete_piece(lease, event.receipts)
            return
        if (duplicate := self._stragglers.unlink(lease.id)) is not None:
            if any(receipt.outcome == "succeeded" for receipt in matching(event.receipts, lease) if is_last(receipt, lease)):
                yield self._stop_duplicate(duplicate)
            else:
                lease = without_last(lease)
        receipts = {receipt.mini_batch: self._with_items(receipt) for receipt in matching(event.receipts, lease)}
        if receipts:
            self._sizer.record(len(receipts), sum(receipt.seconds for receipt in receipts.values()))
            yield Commit([(receipt, self._record(receipt, now)) for receipt in receipts.values()])
        self._returned.extend(without_receipt(lease, receipts))

    def _stop_duplicate(self, number: int) -> Recall:
        """Stop a lease whose last mini-batch, the only one that it still runs, was decided by its duplicate."""
        self._accounting.replace_lease(without_last(self._accounting.leases[number]))
        return Recall(number, at_once=True)

    def _shorten(self, number: int, stop: int | None, now: float) -> None:
        """Queue again what a recalled lease returned."""
        lease = self._accounting.leases.get(number)
        if lease is None or self._stragglers.has_duplicate(number):  # it has ended, or was duplicated meanwhile
            return
        if stop is not None and lease.start <= stop < lease.stop:
            if lease.piece is not None:
                self._bisections.requeue(lease.start, Piece(*lease.piece))
            else:
                self._returned.append((stop, lease.stop, lease.attempt))
            self._accounting.replace_lease(replace(lease, stop=stop))
        self._stragglers.record_returned(number, now, is_known=stop is not None)

    def _with_items(self, receipt: Receipt) -> Receipt:
        """Return *receipt* with its number of items, which a process that died could not report."""
        if receipt.items >= 0:
            return receipt
        items = self._items_of(receipt.mini_batch)
        return receipt._replace(items=items, failed=items)

    def _record(self, receipt: Receipt, now: float) -> str:
        """Record a receipt and return the new state of its mini-batch."""
        index = receipt.mini_batch
        if self._waiting:
            self._waiting_items -= self._waiting.pop(index, 0)
        if receipt.outcome == "succeeded":
            self._succeeded += 1
            self._succeeded_items += receipt.succeeded
            self._failed_items += receipt.failed
            self._rows += receipt.rows
            return "succeeded"
        if should_retry(receipt, self._policy.run_max_try + self._extra_attempts.get(index, 0)):
            self._waiting[index] = receipt.items
            self._waiting_items += receipt.items
            heapq.heappush(self._due, (now + self._policy.retry_delay, index, receipt.attempt + 1))
            return "waiting"
        if self._policy.isolate and receipt.items > 1 and receipt.outcome not in NOT_ISOLATED:
            self._bisections.start(index, receipt.attempt, receipt.items)
            self._waiting[index] = receipt.items
            self._waiting_items += receipt.items
            return "isolating"
        self._failed += 1
        self._failed_items += receipt.items
        return "failed"

    # Bisection

    def _resume_bisection(self, bisection: BisectionState) -> None:
        self._bisections.resume(bisection)
        self._waiting[bisection.mini_batch] = bisection.undecided
        self._waiting_items += bisection.undecided

    def _complete_piece(self, lease: Lease, receipts: Iterable[Receipt]) -> Iterator[Instruction]:
        if not lease.count:  # recalled, and its piece was queued again
            return
        index, piece = lease.start, Piece(*(lease.piece or (0, 0)))
        receipt = next(iter(matching(receipts, lease)), None)
        if receipt is None:  # did not run, not charged
            self._bisections.requeue(index, piece)
        else:
            yield self._record_piece(index, piece, receipt)

    def _record_piece(self, index: int, piece: Piece, receipt: Receipt) -> CommitPiece:
        """Record the outcome of a piece."""
        result = self._bisections.record(index, piece, receipt)
        self._waiting[index] -= result.decided
        self._waiting_items -= result.decided
        self._failed_items += result.failed
        if receipt.outcome == "succeeded":
            self._succeeded_items += receipt.succeeded
            self._rows += receipt.rows
        if result.state != "isolating":
            del self._waiting[index]
            self._succeeded += result.state == "succeeded"
            self._failed += result.state == "failed"
        return CommitPiece(receipt, piece, result.failed, result.state)

    def _requeue_piece(self, lease: Lease) -> Iterator[Instruction]:
        """Queue a piece that lost its node; a piece that keeps killing its node counts as failed."""
        if not lease.count:
            return
        index, piece = lease.start, Piece(*(lease.piece or (0, 0)))
        if self._bisections.record_loss(index, piece):
            yield self._record_piece(index, piece, lost_receipt(lease, piece.items))
        else:
            self._bisections.requeue(index, piece)

    def _remove_node(self, name: str, now: float) -> Iterator[Instruction]:
        """Queue the leases of a lost node again. A lease of one running mini-batch is charged an attempt."""
        charged: list[tuple[Receipt, str]] = []
        for lease, has_started in self._accounting.remove_node(name):
            self._stragglers.forget(lease.id)
            was_duplicated = self._stragglers.unlink(lease.id) is not None
            if was_duplicated:  # the duplicate continues; the rest had finished, and only its receipts are lost
                lease = without_last(lease)  # noqa: PLW2901  the same lease, shortened
            if lease.piece is not None:
                yield from self._requeue_piece(lease)
            elif lease.count == 1 and has_started and not was_duplicated:
                receipt = lost_receipt(lease, self._items_of(lease.start))
                charged.append((receipt, self._record(receipt, now)))
            elif lease.count:
                self._returned.extend(split(lease, started=has_started))
        if charged:
            yield Commit(charged)

    # Next instructions

    def _next_instructions(self, now: float) -> Iterator[Instruction]:
        tally = self.tally
        breach = self._policy.limits.first_breach(tally)
        if breach is not None:
            self._ended = True
            yield Abort(breach)
        elif tally.finished == tally.planned and not self._is_growing:
            self._ended = True
            yield Finish()
        elif self._has_no_slots(now):
            self._ended = True
            yield GiveUp(slots_failed=bool(self._accounting.nodes))
        else:
            yield from self._hold_or_release(tally)
            if self._paused:
                yield from self._recall_leases(now)
            else:
                yield from self._hand_out(now)
                yield from self._rebalance(now)

    def _has_no_slots(self, now: float) -> bool:
        """Return whether no slot is usable: immediately if all nodes failed to start the script, else after node_patience.

        Never true while a node is being opened, since building an environment may take long.
        """
        if self._opening or self._accounting.has_slots:
            self._nodeless_since = None
            return False
        if self._accounting.nodes:
            return not self._accounting.leases  # unfinished leases may still return receipts
        if self._nodeless_since is None:
            self._nodeless_since = now
        return now - self._nodeless_since > self._policy.node_patience

    def _hold_or_release(self, tally: Tally) -> Iterator[Instruction]:
        breach = self._policy.limits.near_breach(tally, isolates=self._policy.isolate)
        if breach is not None and not self._is_holding:
            yield PauseScheduling(breach)
        elif breach is None and self._is_holding:
            yield ResumeScheduling()
        self._is_holding = breach is not None

    def _hand_out(self, now: float) -> Iterator[Instruction]:
        while (name := self._least_loaded_node()) is not None and (lease := self._next_lease(name, now)) is not None:
            yield self._send(lease, now)

    def _send(self, lease: Lease, now: float) -> SubmitLease:
        self._accounting.add_lease(lease)
        self._stragglers.record_sent(lease, now)
        return SubmitLease(lease)

    def _recall_leases(self, now: float) -> Iterator[Instruction]:
        """Recall what leases have not started; running mini-batches continue."""
        for lease in self._stragglers.to_recall_while_paused(self._accounting.leases.values(), now):
            yield Recall(lease.id, at_once=False)

    def _rebalance(self, now: float) -> Iterator[Instruction]:
        """With nothing left to hand out, rebalance work from busy to idle slots."""
        self._stragglers.next_check = None
        if self._pending or self._returned or self._is_holding or self._is_growing:
            return
        free = self._accounting.free()
        if not free:
            return
        candidates = [lease for lease in self._accounting.leases.values() if lease.piece is None and self._may_recall(lease)]
        for lease in self._stragglers.to_recall(candidates, sum(free.values()), now):
            yield Recall(lease.id, at_once=False)
        if self._policy.speculative:
            yield from self._duplicate_slow(free, now)

    def _may_recall(self, lease: Lease) -> bool:
        """Return whether a lease may hold unstarted mini-batches, or has to be shortened before it can be duplicated."""
        is_behind = lease.count > 1 or self._accounting.is_overfull(lease.node)
        return is_behind or self._policy.speculative or self._policy.shared_workers

    def _duplicate_slow(self, free: dict[str, int], now: float) -> Iterator[Instruction]:
        """Duplicate slow mini-batches on other nodes."""
        for name, slots in free.items():
            for _ in range(slots):
                others = [lease for lease in self._accounting.leases.values() if lease.node != name and lease.piece is None]
                slow = self._stragglers.slowest(others, self._sizer.mean, now)
                if slow is None:
                    break
                copy = self._lease(name, slow.stop - 1, slow.stop, slow.attempt)
                self._stragglers.link(slow, copy)
                yield self._send(copy, now)

    def _least_loaded_node(self) -> str | None:
        """Return the node with the fewest leases per slot, or None when every node has enough."""
        ahead = 2 if self._policy.fetches or self._sizer.mean < _AHEAD_SECONDS else 1
        load, name = self._accounting.least_loaded() or (ahead, None)
        return name if load < ahead else None

    def _next_lease(self, node: str, now: float) -> Lease | None:
        """Return the next lease for *node*: due retries, then pieces, then returned and new mini-batches."""
        if self._due and self._due[0][0] <= now:
            _, index, attempt = heapq.heappop(self._due)
            return self._lease(node, index, index + 1, attempt)
        if self._bisections:
            index, attempt, piece = self._bisections.pop()
            return self._lease(node, index, index + 1, attempt, piece)
        for _ in range(len(self._returned)):
            start, stop, attempt = self._returned.popleft()
            if attempt > 1 or not self._is_holding:
                cut = self._cut(start, stop, stop - start)
                if cut < stop:
                    self._returned.appendleft((cut, stop, attempt))
                return self._lease(node, start, cut, attempt)
            self._returned.append((start, stop, attempt))
        if self._pending and not self._is_holding:
            start, stop = self._pending.popleft()
            cut = self._cut(start, stop, 0)
            if cut < stop:
                self._pending.appendleft((cut, stop))
            self._pending_count -= cut - start
            return self._lease(node, start, cut, 1)
        return None

    def _cut(self, start: int, stop: int, more: int) -> int:
        """Return the end of a lease that starts at *start*; *more* mini-batches are unleased in addition to the queues."""
        remaining = more + self._pending_count + sum(stop - start for start, stop, _ in self._returned)
        return min(stop, start + self._sizer.size(remaining, self._accounting.slots))

    def _lease(self, node: str, start: int, stop: int, attempt: int, piece: Piece | None = None) -> Lease:
        self._last_lease += 1
        return Lease(id=self._last_lease, node=node, start=start, stop=stop, attempt=attempt, piece=piece)
