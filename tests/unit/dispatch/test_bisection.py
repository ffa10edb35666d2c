"""Bisection finds exactly the failing items of a mini-batch."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.bisection import Bisections, Piece
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Finish,
    LeaseFinished,
    NodeLeft,
    NodeOpened,
    PauseScheduling,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.models import BisectionState, FailureLimits, PendingWork, Receipt, Tally


@given(items=st.integers(2, 60), guilty=st.sets(st.integers(0, 59)), data=st.data())
def test_bisection_decides_every_item_exactly_once(items, guilty, data):
    """In any order of answers, and when it is interrupted and resumed at any point."""
    guilty = {item for item in guilty if item < items}
    bisections, known, results = Bisections(2), [], []
    to_run = bisections.start(0, items)
    while not results or results[-1].state == "isolating":
        piece = to_run.pop(data.draw(st.integers(0, len(to_run) - 1)))
        outcome = "raised" if guilty & set(range(*piece)) else "succeeded"
        failed = piece.items if outcome == "raised" else 0
        receipt = Receipt(0, 1, outcome, -1, piece.items - failed, failed, 0, "p", 0, 0, 1, 0, 0.0, 0.1)
        results.append(bisections.record(0, piece, receipt))
        to_run += results[-1].halves
        known.append((*piece, outcome == "succeeded"))
        if results[-1].state == "isolating" and data.draw(st.booleans()):
            bisections = Bisections(2)
            to_run = bisections.resume(BisectionState(0, 1, items, 0, tuple(known)))
    good = [item for start, stop, succeeded in known if succeeded for item in range(start, stop)]
    bad = [start for start, stop, succeeded in known if not succeeded and stop - start == 1]
    assert sorted(good + bad) == list(range(items))
    assert set(bad) == guilty
    assert results[-1].state == ("succeeded" if good else "failed")
    assert (sum(result.decided for result in results), sum(result.failed for result in results)) == (items, len(guilty))
    assert len(known) <= 2 * items


TRIES, WAIT = 3, 30.0  #: attempts; s


@given(items=st.integers(2, 12), guilty=st.sets(st.integers(0, 11)), slots=st.integers(1, 4), data=st.data())
def test_a_piece_waits_and_is_retried_when_the_service_asks_for_it(items, guilty, slots, data):
    """RetryLater says nothing about its items: it fails none before the attempts at a piece are used up."""
    rules = SchedulingPolicy(run_max_try=TRIES, limits=FailureLimits(), isolate=True)
    work = PendingWork(tally=Tally(planned=1, items=items), pending=((0, 1),))
    state, now = RunState(rules, work, lambda _: items), 0.0
    refusals, not_before, runs = {}, {}, Counter()  # by piece
    todo = state.handle(NodeOpened("a", slots), now)
    for _ in range(slots):
        todo += state.handle(SlotReady("a"), now)
    while not any(isinstance(instruction, Finish) for instruction in todo):
        leases = [instruction.lease for instruction in todo if isinstance(instruction, SubmitLease)]
        todo = []
        for lease in leases:
            piece = Piece(*(lease.piece or (0, items)))
            assert now >= not_before.get(piece, 0.0)
            runs[piece] += 1
            if runs[piece] <= refusals.setdefault(piece, data.draw(st.integers(0, TRIES))):
                outcome, wait = "raised", WAIT
                not_before.update(dict.fromkeys([piece, *piece.halves()], now + WAIT))
            else:
                outcome, wait = ("raised", None) if guilty & set(range(*piece)) else ("succeeded", None)
            good = piece.items if outcome == "succeeded" else 0
            numbers = (outcome, piece.items, good, piece.items - good, good, "p", 0, 0, 1, 0, 0.0, 0.1)
            receipt = Receipt(0, lease.attempt, *numbers, retry_after=wait)
            todo += state.handle(LeaseFinished(lease.id, [receipt], slots), now)
        if not todo:
            now = state.next_due
            todo = state.handle(Tick(), now)

    def failing(piece):
        if refusals[piece] < TRIES and not guilty & set(range(*piece)):
            return set()
        return {piece.start} if piece.items == 1 else set.union(*map(failing, piece.halves()))

    assert max(runs.values()) <= TRIES
    assert state.tally.failed_items == len(failing(Piece(0, items)))
    assert state.tally.succeeded_items == items - state.tally.failed_items


class Rig:
    """A RunState with simulated answers."""

    def __init__(self, items=8, remainder=None, **limits):
        rules = SchedulingPolicy(run_max_try=2, limits=FailureLimits(**limits), isolate=True)
        remainder = remainder or PendingWork(tally=Tally(planned=1, items=items), pending=((0, 1),))
        self.state = RunState(rules, remainder, lambda index: items)
        self.items = items
        self.log = []
        self.todo = []
        self.handle(NodeOpened("a", 1))

    def handle(self, event):
        instructions = self.state.handle(event, 0.0)
        self.log += instructions
        self.todo += [instruction.lease for instruction in instructions if isinstance(instruction, SubmitLease)]
        return instructions

    def play(self, guilty, stop_after=1000):
        while self.todo and stop_after:
            stop_after -= 1
            lease = self.todo.pop(0)
            start, stop = lease.piece or (0, self.items)
            bad = guilty & set(range(start, stop))
            good = 0 if bad else stop - start
            outcome = "raised" if bad else "succeeded"
            receipt = Receipt(0, lease.attempt, outcome, -1, good, 0, good, "p", 0, 0, 1, 0, 0.0, 0.1)
            self.handle(LeaseFinished(lease.id, [receipt], 1))
        return self.state.tally


def test_a_mini_batch_is_bisected_after_its_last_attempt():
    """Two attempts as a whole, then pieces; only the failing item counts as failed."""
    rig = Rig()
    tally = rig.play({5})
    assert [len(instruction.decided) for instruction in rig.log if isinstance(instruction, Commit)] == [1, 1]
    assert [instruction.decided[0][1] for instruction in rig.log if isinstance(instruction, Commit)] == ["waiting", "isolating"]
    pieces = [instruction for instruction in rig.log if isinstance(instruction, CommitPiece)]
    assert [instruction.state for instruction in pieces] == ["isolating"] * (len(pieces) - 1) + ["succeeded"]
    assert sum(instruction.failed for instruction in pieces) == 1
    assert (tally.succeeded, tally.failed, tally.waiting) == (1, 0, 0)
    assert (tally.succeeded_items, tally.failed_items, tally.waiting_items, tally.rows) == (7, 1, 0, 7)
    assert isinstance(rig.log[-1], Finish)


def test_a_mini_batch_fails_when_all_its_items_fail():
    """It counts as a failed mini-batch too."""
    tally = Rig().play(set(range(8)))
    assert (tally.succeeded, tally.failed, tally.failed_items) == (0, 1, 8)


def test_failing_items_count_as_soon_as_they_are_found():
    """error_threshold stops a script that always fails before all items have been isolated."""
    rig = Rig(items=1000, error_threshold=3)
    rig.play(set(range(1000)))
    (abort,) = (instruction for instruction in rig.log if isinstance(instruction, Abort))
    assert abort.breach == ("error_threshold", 3, 4)
    assert all(isinstance(instruction, CommitPiece) for instruction in rig.log[rig.log.index(abort) + 1 :])
    assert len([instruction for instruction in rig.log if isinstance(instruction, CommitPiece)]) < 1000


def test_a_bisection_is_resumed_from_the_ledger():
    """Pieces with an outcome do not run again."""
    tally = Tally(planned=1, items=8, waiting=1, succeeded_items=4, waiting_items=4, rows=4, all_scheduled=True)
    known = ((0, 4, True), (4, 8, False))
    rig = Rig(remainder=PendingWork(tally=tally, pending=(), isolating=(BisectionState(0, 2, 8, 4, known),)))
    assert rig.todo[0].piece == Piece(4, 6)
    tally = rig.play({5})
    assert (tally.succeeded_items, tally.failed_items, tally.rows) == (7, 1, 7)


def test_a_piece_that_lost_its_node_runs_again():
    """But a piece that keeps killing its node counts as failed."""
    rig = Rig()
    rig.play({0}, stop_after=2)
    piece = rig.todo[0].piece
    rig.todo.clear()
    rig.handle(NodeLeft("a"))
    rig.handle(NodeOpened("b", 1))
    assert piece in [lease.piece for lease in rig.todo]
    assert not [instruction for instruction in rig.log if isinstance(instruction, CommitPiece)]
    while not any(isinstance(instruction, CommitPiece) for instruction in rig.log):
        rig.todo.clear()
        rig.handle(NodeLeft("b"))
        rig.handle(NodeOpened("b", 1))
    first = next(instruction for instruction in rig.log if isinstance(instruction, CommitPiece))
    assert first.receipt.outcome == "lost"


def test_a_bisected_mini_batch_counts_as_one_item_for_scheduling():
    """Not as all of its items: otherwise one broken file would pause scheduling until it is found."""
    for threshold, held in ((0, True), (1, False)):
        rig = Rig(error_threshold=threshold)
        rig.play({5})
        assert any(isinstance(instruction, PauseScheduling) for instruction in rig.log) == held
