"""The state of a run: takes events, returns instructions. Pure: no clock, no files, no cluster.

Every planned mini-batch is in exactly one of: new (never leased), returned (leased, but did not run), leased, waiting
(between two attempts, or under bisection), succeeded, failed. Only ``handle`` moves it, and only a receipt of an unfinished
lease, or the loss of its node, decides anything: a late receipt is ignored, so nothing is ever decided twice. While the plan
is growing, new mini-batches are appended.

A mini-batch may be the last of two unfinished leases (speculative_execution). They count as one attempt: the first success
decides it and removes it from the other lease; a failure only removes it from the failed lease.

While the run is paused nothing is handed out, and leases are recalled: they keep only the running mini-batches. So are leases
that were handed out without a pace when one is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile

from prefect_parallel_run.dispatch import events
from prefect_parallel_run.dispatch.bisection import Bisections, Piece
from prefect_parallel_run.dispatch.leases import SlotAccounting, StragglerTracker, earliest
from prefect_parallel_run.dispatch.pacing import Pace, RetryDelay
from prefect_parallel_run.dispatch.work_queue import (
    LeaseSizer,
    Progress,
    Work,
    WorkQueue,
    lost_receipt,
    matching,
    split,
    without_last,
    without_receipt,
)
from prefect_parallel_run.models import NOT_ISOLATED, FailureLimits, Lease, Outcome, PendingWork, Receipt, Tally

_NODE_PATIENCE = 60.0  #: s without any node before the run fails; Prefect's retry then opens a new cluster
_FEW_LEASES = 500  #: up to so many are examined at every event near the end of a run
_REBALANCE_INTERVAL = 1e-4  #: s per unfinished lease between two rebalances of more leases: each examines all of them
_AHEAD_SECONDS = 0.5  #: s: a slot gets a second lease in advance only while mini-batches are shorter than this


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    """The configuration of scheduling, retries and failure limits."""

    run_max_try: int
    limits: FailureLimits
    retry_delay: RetryDelay = field(default_factory=RetryDelay)
    per_minute: float | None = None  #: mini-batches that may start; None or -1: no limit
    max_per_lease: int = 1000
    fetches: bool = False  #: nodes prefetch the files of a lease, so every slot gets one in advance
    speculative: bool = False  #: duplicate slow mini-batches on idle slots
    shared_workers: bool = False  #: other users share the workers, so a lease may wait there
    isolate: bool = False  #: bisect a mini-batch whose attempts are used up
    fills_nodes: bool = False  #: a paced run uses one node after another, so that those become idle that it does not need


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The figures on which the number of nodes depends."""

    backlog: int  #: mini-batches that are not leased
    seconds: float  #: mean duration of a mini-batch; infinite while unknown
    per_second: float = math.inf  #: mini-batches that may start
    slots: int  #: of all nodes
    nodes: int  #: open nodes
    opening: int = 0  #: available nodes that are being opened
    idle: tuple[str, ...] = ()  #: names of open nodes without a lease; the first ones are released first


class RunState:
    """Decides what a run does next.

    *items_of* returns the number of items of a mini-batch; it is only called when a process died or a node was lost.
    """

    def __init__(self, policy: SchedulingPolicy, pending_work: PendingWork, items_of: Callable[[int], int]) -> None:
        self._policy, self._items_of = policy, items_of
        self._progress = Progress(pending_work)
        self._sizer = LeaseSizer(policy.max_per_lease)
        self._bisections = Bisections(policy.run_max_try)
        self._queue = WorkQueue(pending_work, self._sizer)
        for bisection in pending_work.isolating:
            for piece in self._bisections.resume(bisection):
                self._queue.add_retry(bisection.mini_batch, bisection.attempt, 0.0, piece)
        self._extra_attempts = {index: extra for index, _, _, extra in pending_work.waiting if extra}
        self._accounting = SlotAccounting()
        self._stragglers = StragglerTracker()
        self._pace = Pace(policy.per_minute)
        self._last_lease = 0
        self._last_unpaced = 0  # the last lease that was handed out before the run had a pace
        self._now = float("-inf")
        self._is_holding = False
        self._processes: int | None = None  # per node, once a user has changed it
        self._resizes = 0
        self._next_rebalance = float("-inf")
        self._has_ended = False
        self._opening = 0  # number of nodes that are being opened
        self._nodeless_since: float | None = None
        self.is_paused = False  #: a user has paused the run

    @property
    def tally(self) -> Tally:
        """Return the counts so far."""
        return self._progress.tally(has_new=self._queue.has_new)

    @property
    def next_due(self) -> float | None:
        """Return when something is due without an event (a retry, a paced mini-batch, a slow lease), or None."""
        is_paced = self._pace.is_limited and self._queue.backlog and self._accounting.idle_node() is not None
        paced = self._pace.next_due(self._now) if is_paced else None
        return earliest([self._queue.next_due(self._now), self._stragglers.next_check, paced])

    @property
    def demand(self) -> Demand:
        """Return what the number of nodes depends on; means nothing while the run is paused."""
        return Demand(
            backlog=self._queue.backlog,
            seconds=self._sizer.mean,
            per_second=self._pace.per_second,
            slots=self._accounting.slots,
            nodes=len(self._accounting.nodes),
            opening=self._opening,
            idle=tuple(self._accounting.idle_nodes),
        )

    def handle(self, event: events.Event, now: float) -> list[events.Instruction]:
        """Apply *event* at *now* (monotonic clock, s) and return the resulting instructions, in order."""
        self._now = now
        if self._has_ended:  # leases that finished before they were stopped still count
            return list(self._complete_lease(event, now)) if isinstance(event, events.LeaseFinished) else []
        instructions: list[events.Instruction] = []
        match event:
            case events.NodeOpened(node, slots):
                instructions += self._join(node, slots)
            case events.SlotReady():
                self._accounting.record_ready(event)
            case events.SlotUnusable():
                self._accounting.record_unusable(event)
            case events.NodeResized():
                self._accounting.resize(event)
            case events.NodeLeft(node):
                instructions += self._remove_node(node, now)
            case events.NodesOpening(nodes):
                self._opening = nodes
            case events.LeaseFinished():
                instructions += self._complete_lease(event, now)
            case events.LeaseShortened(lease, stop):
                self._shorten(lease, stop, now)
            case events.PlanGrew(items):
                self._queue.add_new(self._progress.planned, self._progress.planned + len(items))
                self._progress.grow(items)
            case events.PlanEnded():
                self._progress.is_growing = False
            case events.Paused() | events.Continued() | events.LimitsChanged() | events.ProcessesChanged():
                instructions += self._apply_command(event)
        return [*instructions, *self._next_instructions(now)]

    def stop(self) -> None:
        """Stop handing out leases; receipts that still arrive count."""
        self._has_ended = True

    def _apply_command(self, command: events.ControlCommand) -> Iterator[events.Instruction]:
        match command:
            case events.Paused() | events.Continued():
                self.is_paused = isinstance(command, events.Paused)
            case events.LimitsChanged(limits, per_minute):
                self._policy = replace(self._policy, limits=limits)
                if not self._pace.is_limited:
                    self._last_unpaced = self._last_lease
                self._pace.change(per_minute, self._now)
            case events.ProcessesChanged(count):
                self._processes, self._resizes = count, self._resizes + 1
                for node in self._accounting.nodes:
                    yield events.Resize(node, count, self._resizes)

    def _join(self, name: str, slots: int) -> Iterator[events.Instruction]:
        self._accounting.add_node(name, slots)
        if self._processes is not None and slots != self._processes:  # the node was opened before the change
            yield events.Resize(name, self._processes, self._resizes)

    # Outcomes of leases

    def _complete_lease(self, event: events.LeaseFinished, now: float) -> Iterator[events.Instruction]:
        lease = self._accounting.complete(event)
        if lease is None:  # lost earlier, and its mini-batches were leased again: its receipts are ignored
            return
        self._stragglers.forget(lease.id)
        if lease.piece is not None:
            yield from self._complete_piece(lease, event.receipts, now)
            return
        receipts = {receipt.mini_batch: self._with_items(receipt) for receipt in matching(event.receipts, lease)}
        if (duplicate := self._stragglers.unlink(lease.id)) is not None:
            last = lease.stop - 1
            if last in receipts and receipts[last].outcome == Outcome.SUCCEEDED:
                # Its last mini-batch, the only one that the duplicate still runs, is decided.
                self._accounting.replace_lease(without_last(self._accounting.leases[duplicate]))
                yield events.Recall(duplicate, at_once=True)
            else:  # the duplicate continues the attempt
                lease = without_last(lease)
                receipts.pop(last, None)
        if receipts:
            self._sizer.record(len(receipts), sum(receipt.seconds for receipt in receipts.values()))
            yield events.Commit([(receipt, self._record(receipt, now)) for receipt in receipts.values()])
        self._queue.add_returned(without_receipt(lease, receipts))

    def _shorten(self, number: int, stop: int | None, now: float) -> None:
        """Queue again what a recalled lease returned."""
        lease = self._accounting.leases.get(number)
        if lease is None or self._stragglers.has_duplicate(number):  # it has ended, or was duplicated meanwhile
            return
        if stop is not None and lease.start <= stop < lease.stop:
            if lease.piece is not None:
                self._queue.add_retry(lease.start, lease.attempt, now, _piece(lease))
            else:
                self._queue.add_returned([Work(stop, lease.stop, lease.attempt)])
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
        index, attempt = receipt.mini_batch, receipt.attempt
        state = "failed"
        if receipt.outcome == Outcome.SUCCEEDED:
            state = "succeeded"
        elif not receipt.final and attempt < self._policy.run_max_try + self._extra_attempts.get(index, 0):
            state = "waiting"
            delay = self._policy.retry_delay.before(index, attempt + 1, receipt.retry_after)
            self._queue.add_retry(index, attempt + 1, now + delay)
        elif self._policy.isolate and receipt.items > 1 and receipt.outcome not in NOT_ISOLATED:
            state = "isolating"
            self._add_pieces(self._bisections.start(index, receipt.items), receipt, now)
        self._progress.record(receipt, state)
        return state

    # Bisection

    def _complete_piece(self, lease: Lease, receipts: Iterable[Receipt], now: float) -> Iterator[events.Instruction]:
        receipt = next(matching(receipts, lease), None)
        if receipt is not None:
            yield from self._record_piece(_piece(lease), receipt, now)
        elif lease.count:  # did not run, not charged; otherwise it was recalled, and its piece was queued again
            self._queue.add_retry(lease.start, lease.attempt, now, _piece(lease))

    def _record_piece(self, piece: Piece, receipt: Receipt, now: float) -> Iterator[events.CommitPiece]:
        """Record an attempt at a piece. A lost node and RetryLater say nothing about its items: the piece is retried."""
        index = receipt.mini_batch
        is_undecided = receipt.outcome == Outcome.LOST or (receipt.retry_after is not None and not receipt.final)
        if is_undecided and self._bisections.may_repeat(index, piece):
            self._add_pieces([piece], receipt, now)
            return
        result = self._bisections.record(index, piece, receipt)
        self._progress.record_piece(receipt, result)
        self._add_pieces(result.halves, receipt, now)
        yield events.CommitPiece(receipt, piece, result.failed, result.state)

    def _add_pieces(self, pieces: Iterable[Piece], receipt: Receipt, now: float) -> None:
        """Queue pieces to run because of the attempt of *receipt*: immediately, or after the delay that it requested."""
        index, attempt, requested = receipt.mini_batch, receipt.attempt, receipt.retry_after
        for piece in pieces:
            work = f"{index}[{piece.start}:{piece.stop}]"
            delay = 0.0 if requested is None else self._policy.retry_delay.before(work, attempt + 1, requested)
            self._queue.add_retry(index, attempt, now + delay, piece)

    def _remove_node(self, name: str, now: float) -> Iterator[events.Instruction]:
        """Queue the leases of a lost node again. A lease of one running mini-batch is charged an attempt."""
        charged: list[tuple[Receipt, str]] = []
        for lease, has_started in self._accounting.remove_node(name):
            self._stragglers.forget(lease.id)
            was_duplicated = self._stragglers.unlink(lease.id) is not None
            if was_duplicated:  # the duplicate continues; the rest had finished, and only its receipts are lost
                lease = without_last(lease)  # noqa: PLW2901  the same lease, shortened
            if lease.piece is not None and lease.count:
                yield from self._record_piece(_piece(lease), lost_receipt(lease, _piece(lease).items), now)
            elif lease.count == 1 and has_started and not was_duplicated:
                receipt = lost_receipt(lease, self._items_of(lease.start))
                charged.append((receipt, self._record(receipt, now)))
            elif lease.count:
                self._queue.add_returned(split(lease, started=has_started))
        if charged:
            yield events.Commit(charged)

    # Next instructions

    def _next_instructions(self, now: float) -> Iterator[events.Instruction]:
        tally = self.tally
        if (end := self._end(tally, now)) is not None:
            self._has_ended = True
            yield end
            return
        yield from self._pause_or_resume(tally)
        self._stragglers.next_check = None
        if self.is_paused:
            yield from self._recall_unstarted(self._accounting.leases.values(), now)
        else:
            yield from self._hand_out(now)
            yield from self._rebalance(now)
            if self._pace.is_limited:
                in_order = self._accounting.leases.values()
                yield from self._recall_unstarted(takewhile(lambda lease: lease.id <= self._last_unpaced, in_order), now)

    def _recall_unstarted(self, leases: Iterable[Lease], now: float) -> Iterator[events.Recall]:
        """Recall what some leases have not started; running mini-batches continue."""
        for lease in self._stragglers.to_recall_unstarted(leases, now):
            yield events.Recall(lease.id, at_once=False)

    def _end(self, tally: Tally, now: float) -> events.Abort | events.Finish | events.GiveUp | None:
        if (breach := self._policy.limits.first_breach(tally)) is not None:
            return events.Abort(breach)
        if tally.finished == tally.planned and not tally.is_growing:
            return events.Finish()
        if self._has_no_slots(now):
            return events.GiveUp(slots_failed=bool(self._accounting.nodes))
        return None

    def _has_no_slots(self, now: float) -> bool:
        """Return whether no slot is usable: immediately if all nodes failed to start the script, else after _NODE_PATIENCE.

        Never true while a node is being opened, since building an environment may take long.
        """
        if self._opening or self._accounting.has_slots:
            self._nodeless_since = None
            return False
        if self._accounting.nodes:
            return not self._accounting.leases  # unfinished leases may still return receipts
        if self._nodeless_since is None:
            self._nodeless_since = now
        return now - self._nodeless_since > _NODE_PATIENCE

    def _pause_or_resume(self, tally: Tally) -> Iterator[events.Instruction]:
        breach = self._policy.limits.near_breach(tally, isolates=self._policy.isolate)
        if breach is not None and not self._is_holding:
            yield events.PauseScheduling(breach)
        elif breach is None and self._is_holding:
            yield events.ResumeScheduling()
        self._is_holding = breach is not None

    def _hand_out(self, now: float) -> Iterator[events.Instruction]:
        """Lease work to the least loaded nodes until every node has enough, as far as the pace permits."""
        at_most = 1 if self._pace.is_limited else self._policy.max_per_lease
        while (node := self._next_node()) is not None and self._pace.permits(now):
            work = self._queue.pop(now, self._accounting.slots, is_holding=self._is_holding, at_most=at_most)
            if work is None:
                return
            yield self._submit(node, work, now)

    def _next_node(self) -> str | None:
        """Return the node for the next lease; None when all have enough."""
        if self._pace.is_limited:  # a mini-batch must start immediately
            return self._accounting.idle_node(fills=self._policy.fills_nodes)
        enough = 2 if self._policy.fetches or self._sizer.mean < _AHEAD_SECONDS else 1  # leases per slot
        least = self._accounting.least_loaded()
        return least[1] if least is not None and least[0] < enough else None

    def _submit(self, node: str, work: Work, now: float) -> events.SubmitLease:
        self._last_lease += 1
        start, stop, attempt, piece = work
        lease = Lease(id=self._last_lease, node=node, start=start, stop=stop, attempt=attempt, piece=piece)
        self._accounting.add_lease(lease)
        self._pace.take(now)
        self._stragglers.record_sent(lease, now)
        return events.SubmitLease(lease)

    def _rebalance(self, now: float) -> Iterator[events.Instruction]:
        """With nothing left to hand out, rebalance work from busy to idle slots."""
        if self._queue.has_ranges or self._is_holding or self._progress.is_growing:
            return
        if now < self._next_rebalance:
            self._stragglers.next_check = self._next_rebalance
            return
        if (count := len(self._accounting.leases)) > _FEW_LEASES:
            self._next_rebalance = now + _REBALANCE_INTERVAL * count
        free = self._accounting.free()
        if not free:
            return
        candidates = [lease for lease in self._accounting.leases.values() if lease.piece is None and self._may_recall(lease)]
        for lease in self._stragglers.to_recall(candidates, sum(free.values()), now):
            yield events.Recall(lease.id, at_once=False)
        if self._policy.speculative:
            yield from self._duplicate_slow(free, now)

    def _may_recall(self, lease: Lease) -> bool:
        """Return whether a lease may hold unstarted mini-batches, or has to be shortened before it can be duplicated."""
        is_behind = lease.count > 1 or self._accounting.is_overfull(lease.node)
        return is_behind or self._policy.speculative or self._policy.shared_workers

    def _duplicate_slow(self, free: dict[str, int], now: float) -> Iterator[events.Instruction]:
        for name, slots in free.items():
            for _ in range(slots):
                others = [lease for lease in self._accounting.leases.values() if lease.node != name and lease.piece is None]
                slow = self._stragglers.slowest(others, self._sizer.mean, now)
                if slow is None or not self._pace.permits(now):
                    break
                copy = self._submit(name, Work(slow.stop - 1, slow.stop, slow.attempt), now)
                self._stragglers.link(slow, copy.lease)
                yield copy


def _piece(lease: Lease) -> Piece:
    return Piece(*(lease.piece or (0, 0)))
