"""RunState under control commands: pause, continue, limits, processes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Continued,
    Finish,
    LeaseFinished,
    LeaseShortened,
    LimitsChanged,
    NodeLeft,
    NodeOpened,
    NodeResized,
    Paused,
    PauseScheduling,
    ProcessesChanged,
    Recall,
    Resize,
    ResumeScheduling,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.pacing import RetryDelay
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.models import FailureLimits, PendingWork, Receipt, Tally

ITEMS = 10


def make_state(planned, *, limits=None, **rules):
    given = SchedulingPolicy(run_max_try=rules.pop("run_max_try", 3), limits=limits or FailureLimits(), **rules)
    tally = Tally(planned=planned, items=planned * ITEMS)
    return RunState(given, PendingWork(tally=tally, pending=((0, planned),)), lambda index: ITEMS)


def receipt(mini_batch, attempt=1, outcome="succeeded", seconds=1.0):
    good = ITEMS if outcome == "succeeded" else 0
    return Receipt(mini_batch, attempt, outcome, ITEMS, good, ITEMS - good, good, "p", 0, 0, 1, 0, 0.0, seconds)


def of(kind, instructions):
    return [instruction for instruction in instructions if isinstance(instruction, kind)]


def leases(instructions):
    return [instruction.lease for instruction in of(SubmitLease, instructions)]


def answer(lease, outcome="succeeded", slots=1, seconds=1.0, **facts):
    receipts = [receipt(i, lease.attempt, outcome, seconds) for i in range(lease.start, lease.stop)]
    return LeaseFinished(lease.id, receipts, slots, **facts)


def test_a_paused_run_leases_nothing_and_recalls_leases():
    """Running mini-batches finish and count; the rest returns without charge, and is leased again afterwards."""
    state = make_state(1000)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    running, waiting = leases(state.handle(answer(first, seconds=0.001), 0.0))
    called = of(Recall, state.handle(Paused(), 1.0))
    assert [(instruction.lease, instruction.at_once) for instruction in called] == [(running.id, False), (waiting.id, False)]
    assert state.is_paused
    assert state.handle(LeaseShortened(running.id, running.start + 1), 1.1) == []
    assert state.handle(LeaseShortened(waiting.id, waiting.start), 1.1) == []
    done = state.handle(LeaseFinished(running.id, [receipt(running.start)], 1), 2.0)
    assert [type(instruction) for instruction in done] == [Commit]
    assert state.handle(LeaseFinished(waiting.id, [], 1), 2.0) == []
    assert state.handle(Tick(), 1000.0) == []
    assert state.tally.waiting == state.tally.failed == 0
    again = leases(state.handle(Continued(), 1001.0))
    assert (again[0].start, again[0].attempt) == (running.start + 1, 1)


def test_a_lease_that_was_just_sent_is_recalled_a_little_later():
    """It may not have reached its node yet."""
    state = make_state(10)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    assert state.handle(Paused(), 0.05) == []
    assert state.next_due == pytest.approx(0.1)
    assert of(Recall, state.handle(Tick(), 0.11)) == [Recall(lease.id, at_once=False)]
    assert state.handle(LeaseShortened(lease.id, None), 0.12) == []  # its node did not know it
    assert of(Recall, state.handle(Tick(), 0.3)) == [Recall(lease.id, at_once=False)]
    assert state.handle(Tick(), 9.0) == []


def test_a_recalled_piece_runs_once():
    """It belongs to a mini-batch under bisection."""
    state = make_state(1, run_max_try=1, isolate=True)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    (piece, *_) = leases(state.handle(answer(lease, "raised"), 0.0))
    state.handle(Paused(), 1.0)
    state.handle(LeaseShortened(piece.id, piece.start), 1.0)
    assert state.handle(LeaseFinished(piece.id, [], 1), 1.1) == []
    done = state.handle(Continued(), 2.0)
    seen = []
    while (found := leases(done)) or not of(Finish, done):
        (out, *_) = found
        seen.append(out.piece)
        good = receipt(0)._replace(items=out.piece[1] - out.piece[0], succeeded=out.piece[1] - out.piece[0], failed=0)
        done = state.handle(LeaseFinished(out.id, [good], 1), 3.0)
        assert of(CommitPiece, done)
    assert sorted(seen) == [(0, 5), (5, 10)]


def test_a_node_lost_after_a_recall_is_not_charged():
    """An empty lease has nothing to charge."""
    state = make_state(10, run_max_try=1)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    state.handle(SlotReady("a"), 0.0)
    state.handle(Paused(), 1.0)
    state.handle(LeaseShortened(lease.id, lease.start), 1.0)
    assert state.handle(NodeLeft("a"), 2.0) == []
    assert state.tally.failed == 0


def test_higher_limits_resume_scheduling_and_lower_ones_abort():
    """Immediately, with the new values."""
    state = make_state(10, run_max_try=2, retry_delay=RetryDelay(seconds=100.0), limits=FailureLimits(allowed_failed_count=0))
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    assert of(PauseScheduling, state.handle(answer(lease, "raised"), 0.0))
    released = state.handle(LimitsChanged(FailureLimits(allowed_failed_count=3)), 1.0)
    assert of(ResumeScheduling, released)
    (second, *_) = leases(released)
    state.handle(LeaseFinished(second.id, [receipt(second.start, outcome="raised")._replace(final=True)], 1), 2.0)
    (abort,) = of(Abort, state.handle(LimitsChanged(FailureLimits(allowed_failed_count=0)), 3.0))
    assert abort.breach == ("allowed_failed_count", 0, 1)


def test_current_and_later_nodes_are_resized():
    """Except nodes that already have the new number of slots."""
    state = make_state(100)
    state.handle(NodeOpened("a", 1), 0.0)
    assert of(Resize, state.handle(ProcessesChanged(3), 0.0)) == [Resize("a", 3, 1)]
    assert of(Resize, state.handle(NodeOpened("b", 1), 0.0)) == [Resize("b", 3, 1)]
    assert of(Resize, state.handle(NodeOpened("c", 3), 0.0)) == []
    assert {instruction.node for instruction in of(Resize, state.handle(ProcessesChanged(2), 0.0))} == {"a", "b", "c"}
    assert state.demand.slots == 5  # what they have, not what they were asked for
    more = leases(state.handle(NodeResized("a", 3, 1, 1), 0.0))
    assert [lease.node for lease in more] == ["a", "a"]
    assert state.demand.slots == 7


def test_reports_from_before_a_resize_are_ignored():
    """Answers, leases and ready slots are reported by different paths, in any order."""
    state = make_state(100)
    first, *_ = leases(state.handle(NodeOpened("a", 1), 0.0))
    state.handle(SlotReady("a", 0), 0.0)
    state.handle(ProcessesChanged(3), 0.0)
    state.handle(SlotReady("a", 1), 0.0)  # the second slot is quicker than the answer
    more = leases(state.handle(NodeResized("a", 3, 1, 1), 0.0))
    assert state._accounting.nodes["a"].ready == 2
    state.handle(answer(first, slots=1, as_of=0), 0.0)
    assert state.demand.slots == 3
    state.handle(answer(more[0], slots=2, as_of=1), 0.0)  # one was given up since
    assert state.demand.slots == 2
    state.handle(NodeResized("a", 9, 9, 1), 0.0)
    assert state.demand.slots == 2
    state.handle(SlotReady("a", 0), 0.0)
    assert state._accounting.nodes["a"].ready == 2


def test_leases_on_removed_slots_take_no_room():
    """After fewer slots and then more, the new slots get work immediately, however long the old leases take."""
    state = make_state(100)
    first = leases(state.handle(NodeOpened("a", 3), 0.0))
    for _ in range(3):
        state.handle(SlotReady("a"), 0.0)
    going = tuple(lease.id for lease in first[1:])
    state.handle(ProcessesChanged(1), 0.0)
    assert state.handle(NodeResized("a", 1, 1, 1, going), 0.0) == []
    state.handle(ProcessesChanged(3), 0.0)
    more = leases(state.handle(NodeResized("a", 3, 1, 2, going), 0.0))
    assert len(more) == 2
    state.handle(answer(first[1], slots=3, as_of=2), 1.0)
    lost = of(Commit, state.handle(NodeLeft("a"), 2.0))
    assert [receipt.mini_batch for receipt, _ in lost[0].decided] == [first[0].start, first[2].start]  # what was running


class Play:
    """Simulates nodes and users at random, and checks every instruction."""

    def __init__(self, data, planned, run_max_try):
        self.data, self.run_max_try = data, run_max_try
        self.state = make_state(planned, run_max_try=run_max_try, max_per_lease=data.draw(st.integers(1, 20)))
        self.out, self.kept, self.asked, self.slots, self.resizes = {}, {}, [], {}, []
        self.decided, self.tries = {}, {}
        self.now, self.joined, self.is_paused, self.end = 0.0, 0, False, None

    def handle(self, event):
        self.now += 0.1
        for instruction in self.state.handle(event, self.now):
            if isinstance(instruction, SubmitLease):
                assert not self.is_paused
                assert instruction.lease.attempt <= self.run_max_try
                self.out[instruction.lease.id], self.kept[instruction.lease.id] = instruction.lease, instruction.lease.stop
            elif isinstance(instruction, Recall):
                self.asked.append(instruction.lease)
            elif isinstance(instruction, Resize):
                assert instruction.slots >= 1
                self.resizes.append(instruction)
            elif isinstance(instruction, Commit):
                for tried, where in instruction.decided:
                    assert tried.mini_batch not in self.decided
                    self.tries[tried.mini_batch] = self.tries.get(tried.mini_batch, 0) + 1
                    assert self.tries[tried.mini_batch] == tried.attempt <= self.run_max_try
                    if where != "waiting":
                        self.decided[tried.mini_batch] = where
            elif isinstance(instruction, Finish | Abort):
                self.end = instruction
        assert self.state.demand.slots == sum(slots for slots, _ in self.slots.values()) or self.resizes

    def draw(self, strategy):
        return self.data.draw(strategy)

    def order(self):
        kind = self.draw(st.sampled_from(["pause", "continue", "continue", "limits", "processes"]))
        if kind == "limits":
            pace = self.draw(st.sampled_from([None, None, 120, 6_000]))
            self.handle(LimitsChanged(FailureLimits(allowed_failed_count=self.draw(st.integers(0, 60))), pace))
        elif kind == "processes":
            self.handle(ProcessesChanged(self.draw(st.integers(1, 4))))
        else:
            self.is_paused = kind == "pause"
            self.handle(Paused() if self.is_paused else Continued())

    def node(self):
        act = self.draw(st.sampled_from(["resize", "join", "lose", "ready"]))
        if act == "resize" and self.resizes:
            resize = self.resizes.pop(self.draw(st.integers(0, len(self.resizes) - 1)))
            slots, as_of = self.slots.get(resize.node, (0, resize.number))
            if resize.number > as_of:  # as a node does
                self.slots[resize.node] = slots, as_of = resize.slots, resize.number
            if resize.node in self.slots:
                here = sorted(number for number, lease in self.out.items() if lease.node == resize.node)
                leaving = tuple(self.draw(st.lists(st.sampled_from(here), unique=True))) if here else ()
                self.handle(NodeResized(resize.node, slots, self.draw(st.integers(0, slots)), as_of, leaving))
        elif act == "join" or not self.slots:
            self.joined += 1
            self.slots[f"n{self.joined}"] = (2, 0)
            self.handle(NodeOpened(f"n{self.joined}", 2))
        elif act == "lose" and len(self.slots) > 1:
            lost = self.draw(st.sampled_from(sorted(self.slots)))
            del self.slots[lost]
            self.resizes = [resize for resize in self.resizes if resize.node != lost]
            self.out = {number: lease for number, lease in self.out.items() if lease.node != lost}
            self.handle(NodeLeft(lost))
        elif act == "ready":
            self.handle(SlotReady(self.draw(st.sampled_from(sorted(self.slots))), 0))

    def lease(self, *, wholly=False):
        if self.asked and self.draw(st.booleans()):
            lease = self.out.get(number := self.asked.pop(0))
            if lease is not None:
                stop = self.draw(st.integers(lease.start, lease.stop))
                self.kept[number] = min(self.kept[number], stop)
                self.handle(LeaseShortened(number, self.kept[number]))
            return
        if not self.out:
            self.handle(Tick())
            return
        lease = self.out.pop(self.draw(st.sampled_from(sorted(self.out))))
        stop = self.kept[lease.id] if wholly else self.draw(st.integers(lease.start, self.kept[lease.id]))
        outcomes = st.sampled_from(["succeeded", "succeeded", "raised"])
        receipts = [receipt(i, lease.attempt, self.draw(outcomes)) for i in range(lease.start, stop)]
        slots, as_of = self.slots[lease.node]
        self.handle(LeaseFinished(lease.id, receipts, slots, as_of))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_mini_batch_is_decided_once_under_control(data):
    """With pauses, limits and slot counts: counts add up, no attempt is one too many, nothing is leased while paused."""
    planned = data.draw(st.integers(1, 60))
    play = Play(data, planned, data.draw(st.integers(1, 3)))
    for _ in range(data.draw(st.integers(0, 120))):
        if play.end is None:
            data.draw(st.sampled_from([play.order, play.node, play.node, play.lease, play.lease, play.lease]))()
    if play.end is None:
        play.is_paused = False
        play.handle(LimitsChanged(FailureLimits()))
        play.handle(Continued())
    while play.end is None:
        play.lease(wholly=True) if play.slots else play.node()
    tally = play.state.tally
    assert tally.succeeded + tally.failed == len(play.decided)
    if isinstance(play.end, Finish):
        assert sorted(play.decided) == list(range(planned))
        assert tally.succeeded_items + tally.failed_items == planned * ITEMS
    else:
        assert tally.failed > play.end.breach.allowed
