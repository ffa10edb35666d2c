"""The guilty items of a mini-batch are found, whatever they are, and nobody else is blamed."""

from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.bisection import Isolation, Piece
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Finish,
    Hold,
    LeaseFinished,
    NodeJoined,
    NodeLeft,
    SubmitLease,
)
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.models import BisectionState, PendingWork, Receipt, Tally
from prefect_parallel_run.runs.limits import FailureLimits


@given(items=st.integers(2, 60), guilty=st.sets(st.integers(0, 59)), data=st.data())
def test_every_item_is_found_good_or_guilty_exactly_once(items, guilty, data):
    """In any order of answers, and when it is interrupted and begun again at any point."""
    guilty = {item for item in guilty if item < items}
    isolation = Isolation(items)
    known = []
    while not isolation.is_over:
        piece = data.draw(st.sampled_from(isolation.open_pieces()))
        succeeded = not guilty & set(range(*piece))
        isolation.note(piece, succeeded=succeeded)
        known.append((piece, succeeded))
        if data.draw(st.booleans()):
            isolation = Isolation(items, known)
    good = [item for piece, succeeded in known if succeeded for item in range(*piece)]
    bad = [piece.start for piece, succeeded in known if not succeeded and piece.items == 1]
    assert sorted(good + bad) == list(range(items))
    assert set(bad) == guilty
    assert isolation.some_succeeded == bool(good)
    assert len(known) <= 2 * items


class Rig:
    """A state that answers are played to."""

    def __init__(self, items=8, remainder=None, **limits):
        rules = SchedulingPolicy(run_max_try=2, limits=FailureLimits(**limits), isolate=True)
        remainder = remainder or PendingWork(tally=Tally(planned=1, items=items), pending=((0, 1),))
        self.state = RunState(rules, remainder, lambda index: items)
        self.items = items
        self.log = []
        self.todo = []
        self.handle(NodeJoined("a", 1))

    def handle(self, event):
        instructions = self.state.handle(event, 0.0)
        self.log += instructions
        self.todo += [one.lease for one in instructions if isinstance(one, SubmitLease)]
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


def test_a_mini_batch_is_taken_apart_after_its_last_try():
    """Two tries as a whole, then pieces; the guilty item alone counts as failed."""
    rig = Rig()
    tally = rig.play({5})
    assert [len(one.decided) for one in rig.log if isinstance(one, Commit)] == [1, 1]
    assert [one.decided[0][1] for one in rig.log if isinstance(one, Commit)] == ["waiting", "isolating"]
    pieces = [one for one in rig.log if isinstance(one, CommitPiece)]
    assert [one.state for one in pieces] == ["isolating"] * (len(pieces) - 1) + ["succeeded"]
    assert sum(one.failed for one in pieces) == 1
    assert (tally.succeeded, tally.failed, tally.waiting) == (1, 0, 0)
    assert (tally.succeeded_items, tally.failed_items, tally.waiting_items, tally.rows) == (7, 1, 0, 7)
    assert isinstance(rig.log[-1], Finish)


def test_one_whose_items_are_all_guilty_has_failed():
    """As a mini-batch, too."""
    tally = Rig().play(set(range(8)))
    assert (tally.succeeded, tally.failed, tally.failed_items) == (0, 1, 8)


def test_guilty_items_count_at_once():
    """A script that fails for everything is stopped by error_threshold, not after all items have been tried apart."""
    rig = Rig(items=1000, error_threshold=3)
    rig.play(set(range(1000)))
    (abort,) = (one for one in rig.log if isinstance(one, Abort))
    assert abort.breach == ("error_threshold", 3, 4)
    assert all(isinstance(one, CommitPiece) for one in rig.log[rig.log.index(abort) + 1 :])
    assert len([one for one in rig.log if isinstance(one, CommitPiece)]) < 1000


def test_it_goes_on_where_it_was():
    """From what the ledger says of the pieces."""
    tally = Tally(planned=1, items=8, waiting=1, succeeded_items=4, waiting_items=4, rows=4, all_scheduled=True)
    known = ((0, 4, True), (4, 8, False))
    rig = Rig(remainder=PendingWork(tally=tally, pending=(), isolating=(BisectionState(0, 2, 8, 4, known),)))
    assert rig.todo[0].piece == Piece(4, 6)
    tally = rig.play({5})
    assert (tally.succeeded_items, tally.failed_items, tally.rows) == (7, 1, 7)


def test_a_piece_that_was_lost_with_its_node_is_run_again():
    """But one that takes every node along has failed."""
    rig = Rig()
    rig.play({0}, stop_after=2)
    piece = rig.todo[0].piece
    rig.todo.clear()
    rig.handle(NodeLeft("a"))
    rig.handle(NodeJoined("b", 1))
    assert piece in [lease.piece for lease in rig.todo]
    assert not [one for one in rig.log if isinstance(one, CommitPiece)]
    while not any(isinstance(one, CommitPiece) for one in rig.log):
        rig.todo.clear()
        rig.handle(NodeLeft("b"))
        rig.handle(NodeJoined("b", 1))
    first = next(one for one in rig.log if isinstance(one, CommitPiece))
    assert first.receipt.outcome == "lost"


def test_a_mini_batch_that_is_looked_through_holds_back_as_one_item():
    """Not as all of its items: a single broken file would stop the hand-out to everybody until it is found."""
    for threshold, held in ((0, True), (1, False)):
        rig = Rig(error_threshold=threshold)
        rig.play({5})
        assert any(isinstance(one, Hold) for one in rig.log) == held
