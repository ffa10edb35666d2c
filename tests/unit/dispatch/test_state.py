"""RunState: events in, instructions out."""

import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    Finish,
    GiveUp,
    LeaseFinished,
    LeaseShortened,
    NodeLeft,
    NodeOpened,
    NodesOpening,
    PauseScheduling,
    PlanEnded,
    PlanGrew,
    Recall,
    ResumeScheduling,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.pacing import RetryDelay
from prefect_parallel_run.dispatch.state import RunState, SchedulingPolicy
from prefect_parallel_run.models import FailureLimits, Lease, PendingWork, Receipt, Tally

ITEMS = 10


def make_state(planned, *, run_max_try=3, retry_delay=0.0, max_per_lease=1000, is_growing=False, policy=None, **limits):
    rules = SchedulingPolicy(
        **(policy or {}),
        run_max_try=run_max_try,
        limits=FailureLimits(**limits),
        retry_delay=RetryDelay(seconds=retry_delay),
        max_per_lease=max_per_lease,
    )
    tally = Tally(planned=planned, items=planned * ITEMS, is_growing=is_growing)
    pending = ((0, planned),) if planned else ()
    return RunState(rules, PendingWork(tally=tally, pending=pending), lambda index: ITEMS)


def receipt(mini_batch, attempt=1, outcome="succeeded", *, good=ITEMS, seconds=1.0, final=False):
    good = good if outcome == "succeeded" else 0
    return Receipt(mini_batch, attempt, outcome, ITEMS, good, ITEMS - good, good, "p", 0, 0, 1, 0, 0.0, seconds, final=final)


def leases(instructions):
    return [instruction.lease for instruction in instructions if isinstance(instruction, SubmitLease)]


def kinds(instructions):
    return [type(instruction) for instruction in instructions]


def answer(lease, outcome=lambda mini_batch, attempt: "succeeded", slots=1):
    receipts = [receipt(i, lease.attempt, outcome(i, lease.attempt)) for i in range(lease.start, lease.stop)]
    return LeaseFinished(lease.id, receipts, slots)


def play(state, nodes, outcome, now=0.0):
    """Run *state* to its end with nodes that answer immediately; return all instructions in order."""
    done, todo = [], []
    for node, slots in nodes.items():
        new = state.handle(NodeOpened(node, slots), now)
        done += new
        todo += leases(new)
    while todo:
        lease = todo.pop(0)
        new = state.handle(answer(lease, outcome, nodes[lease.node]), now)
        done += new
        todo += leases(new)
    return done


def test_a_growing_plan_is_leased_as_it_arrives():
    """allowed_failed_percent is judged once planning is complete, since the total is unknown before."""
    state = make_state(0, is_growing=True, allowed_failed_percent=10, run_max_try=1)
    assert state.handle(NodeOpened("a", 1), 0.0) == []
    (lease,) = leases(state.handle(PlanGrew([ITEMS]), 0.0))
    assert kinds(state.handle(answer(lease, lambda i, attempt: "raised"), 0.0)) == [Commit]
    assert state.tally.is_growing
    more = leases(state.handle(PlanGrew([ITEMS] * 19), 0.0))
    state.handle(PlanEnded(), 0.0)
    while more:
        done = state.handle(answer(more.pop()), 0.0)
        more += leases(done)
    assert kinds(done)[-1] is Finish
    assert (state.tally.planned, state.tally.succeeded, state.tally.failed, state.tally.items) == (20, 19, 1, 20 * ITEMS)


def test_a_plan_that_stays_empty_ends_the_run():
    """Immediately, with or without nodes."""
    assert kinds(make_state(0, is_growing=True).handle(PlanEnded(), 0.0)) == [Finish]


def test_a_run_ends_when_every_mini_batch_is_decided():
    """The leases contain every planned mini-batch once, in order."""
    state = make_state(100)
    done = play(state, {"a": 1, "b": 2}, lambda i, attempt: "succeeded")
    assert [i for lease in leases(done) for i in range(lease.start, lease.stop)] == list(range(100))
    assert kinds(done)[-1] is Finish
    assert state.tally.succeeded == 100
    assert state.tally.succeeded_items == 100 * ITEMS


def test_a_mini_batch_gets_run_max_try_attempts():
    """The first attempt counts; every retry is a lease of its own."""
    state = make_state(10, run_max_try=3)
    done = play(state, {"a": 1}, lambda i, attempt: "raised" if i == 4 else "succeeded")
    tries = [lease for lease in leases(done) if lease.start <= 4 < lease.stop]
    assert [lease.attempt for lease in tries] == [1, 2, 3]
    assert [lease.count for lease in tries[1:]] == [1, 1]
    assert state.tally.failed == 1
    assert state.tally.failed_items == ITEMS
    assert kinds(done)[-1] is Finish


def test_success_on_the_second_attempt_clears_the_failure():
    """Between its attempts it counts as waiting; afterwards as succeeded only."""
    state = make_state(3)
    done = play(state, {"a": 1}, lambda i, attempt: "raised" if (i, attempt) == (1, 1) else "succeeded")
    assert kinds(done)[-1] is Finish
    assert (state.tally.failed, state.tally.failed_items, state.tally.waiting, state.tally.waiting_items) == (
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("limit", "failing", "ends"),
    [
        ({"allowed_failed_count": 10}, 10, Finish),
        ({"allowed_failed_count": 10}, 11, Abort),
        ({"allowed_failed_count": 0}, 0, Finish),
        ({"allowed_failed_count": 0}, 1, Abort),
        ({"allowed_failed_count": None}, 40, Finish),
        ({"error_threshold": 10 * ITEMS}, 10, Finish),
        ({"error_threshold": 10 * ITEMS}, 11, Abort),
        ({"error_threshold": None}, 40, Finish),
        ({"allowed_failed_percent": 25.0}, 10, Finish),
        ({"allowed_failed_percent": 25.0}, 11, Abort),
        ({"allowed_failed_percent": None}, 40, Finish),
    ],
)
def test_limits_at_their_edges(limit, failing, ends):
    """Of forty mini-batches some fail; after the end only unfinished leases are committed."""
    state = make_state(40, **limit)
    done = kinds(play(state, {"a": 2}, lambda i, attempt: "raised" if i < failing else "succeeded"))
    assert {Abort, Finish} & set(done) == {ends}
    assert set(done[done.index(ends) + 1 :]) <= {Commit}


def test_receipts_that_arrive_after_the_end_still_count():
    """They finished before the leases were stopped, and a resumed run does not repeat them."""
    state = make_state(40, run_max_try=1, error_threshold=0)
    first, second = leases(state.handle(NodeOpened("a", 2), 0.0))[:2]
    assert kinds(state.handle(answer(first, lambda i, attempt: "raised"), 0.0)) == [Commit, Abort]
    assert kinds(state.handle(answer(second), 0.0)) == [Commit]
    assert (state.tally.failed, state.tally.succeeded) == (1, 1)
    assert state.handle(Tick(), 0.0) == []


def test_the_percentage_is_judged_only_after_all_are_scheduled():
    """Half of the first mini-batches fail, but 10 % of all is not exceeded."""
    state = make_state(100, run_max_try=1, allowed_failed_percent=10.0)
    done = play(state, {"a": 1}, lambda i, attempt: "raised" if i < 20 and i % 2 else "succeeded")
    assert kinds(done)[-1] is Finish


def test_pending_retries_pause_scheduling_until_they_succeed():
    """A limit exceeded only by mini-batches between two attempts stops scheduling, not the run."""
    state = make_state(50, allowed_failed_count=0)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    held = state.handle(answer(first, lambda i, attempt: "raised"), 0.0)
    assert kinds(held) == [Commit, PauseScheduling, SubmitLease]
    (second,) = leases(held)
    assert (second.start, second.attempt) == (0, 2)
    released = state.handle(answer(second), 0.0)
    assert kinds(released)[:2] == [Commit, ResumeScheduling]
    assert leases(released)[0].start == 1


def test_the_outcome_does_not_depend_on_the_order_of_events():
    """Ten mini-batches fail once and then succeed: a limit of 0 is never exceeded, for any order of answers."""
    for seed in range(50):
        shuffle = random.Random(seed)
        state = make_state(40, allowed_failed_count=0, error_threshold=0)
        todo = leases(state.handle(NodeOpened("a", 2), 0.0)) + leases(state.handle(NodeOpened("b", 2), 0.0))
        while todo:
            lease = todo.pop(shuffle.randrange(len(todo)))
            flaky = answer(lease, lambda i, attempt: "raised" if i % 4 == 0 and attempt == 1 else "succeeded", 2)
            todo += leases(state.handle(flaky, 0.0))
        assert state.tally.succeeded == 40


def test_a_retry_is_due_after_its_delay():
    """retry_delay_seconds passes between two attempts; other mini-batches run meanwhile."""
    state = make_state(2, retry_delay=5.0)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    (second,) = leases(state.handle(answer(first, lambda i, attempt: "raised"), 1.0))
    assert second.start == 1
    assert leases(state.handle(answer(second), 2.0)) == []
    assert state.next_due == 6.0
    assert leases(state.handle(Tick(), 5.9)) == []
    assert [(x.start, x.attempt) for x in leases(state.handle(Tick(), 6.0))] == [(0, 2)]


def test_no_retry_prevents_further_attempts():
    """A final receipt rules out retries."""
    state = make_state(1)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    done = state.handle(LeaseFinished(lease.id, [receipt(0, 1, "raised", final=True)], 1), 0.0)
    assert kinds(done) == [Commit, Finish]
    assert state.tally.failed == 1


def test_missing_rows_count_as_failed_items_without_retry():
    """Seven rows for ten items: three failed items in a succeeded mini-batch."""
    state = make_state(1, error_threshold=3)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    done = state.handle(LeaseFinished(lease.id, [receipt(0, good=7)], 1), 0.0)
    assert kinds(done) == [Commit, Finish]
    assert (state.tally.succeeded_items, state.tally.failed_items) == (7, 3)


def test_a_lost_node_charges_only_a_lease_of_one_that_ran():
    """Leases that waited behind it are not charged."""
    state = make_state(2, run_max_try=1)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    state.handle(LeaseFinished(first.id, [receipt(0, seconds=0.001)], 1), 0.0)
    lost = state.handle(NodeLeft("a"), 1.0)
    (commit,) = [instruction for instruction in lost if isinstance(instruction, Commit)]
    assert [(r.mini_batch, r.outcome, state) for r, state in commit.decided] == [(1, "lost", "failed")]
    assert kinds(lost)[-1] is Finish


def test_a_lost_lease_of_several_is_split_without_charge():
    """No innocent mini-batch is charged, and one that kills its node is soon alone."""
    state = make_state(1000, run_max_try=1)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    running, _ = leases(state.handle(LeaseFinished(first.id, [receipt(0, seconds=0.001)], 1), 0.0))
    assert running.count > 1
    assert kinds(state.handle(NodeLeft("a"), 1.0)) == []
    done = play(state, {"b": 1}, lambda i, attempt: "succeeded", 2.0)
    assert sorted(i for lease in leases(done) for i in range(lease.start, lease.stop)) == list(range(1, 1000))
    assert all(lease.attempt == 1 for lease in leases(done))
    assert kinds(done)[-1] is Finish


@given(
    planned=st.integers(1, 1500),
    max_per_lease=st.integers(1, 1000),
    place=st.floats(0, 1, exclude_max=True),
    run_max_try=st.integers(1, 3),
)
@example(planned=1500, max_per_lease=1000, place=0.9, run_max_try=1)
def test_lost_nodes_add_at_most_four_uncharged_executions(planned, max_per_lease, place, run_max_try):
    """Even if every node that runs it is lost: README promises this number.

    A lease is lost with all of its receipts: each of its mini-batches may have been executed.
    """
    state = make_state(planned, max_per_lease=max_per_lease, run_max_try=run_max_try)
    guilty, executions, tries, done, todo = int(place * planned), 0, [], [], []
    for node in map(str, range(100)):
        todo = leases(state.handle(NodeOpened(node, 1), 0.0))
        state.handle(SlotReady(node), 0.0)
        while not todo[0].start <= guilty < todo[0].stop:
            lease, *todo = todo
            receipts = [receipt(i, lease.attempt, seconds=0.0001) for i in range(lease.start, lease.stop)]
            todo += leases(state.handle(LeaseFinished(lease.id, receipts, 1), 0.0))
        executions += 1
        done = state.handle(NodeLeft(node), 0.0)
        tries += [one for instruction in done if isinstance(instruction, Commit) for one, _ in instruction.decided]
        if len(tries) == run_max_try:
            break
    assert [(one.mini_batch, one.attempt, one.outcome) for one in tries] == [
        (guilty, attempt, "lost") for attempt in range(1, run_max_try + 1)
    ]
    assert executions <= run_max_try + 4


def test_a_late_answer_of_a_lost_lease_is_ignored():
    """Its mini-batches were leased again; deciding them twice would duplicate their rows."""
    state = make_state(4, run_max_try=2)
    (zombie,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    state.handle(NodeLeft("a"), 1.0)
    play(state, {"b": 1}, lambda i, attempt: "succeeded", 2.0)
    before = state.tally
    assert state.handle(answer(zombie), 3.0) == []
    assert state.tally == before


def test_receipts_that_do_not_match_the_lease_are_ignored():
    """Receipts of another mini-batch, of another attempt, or duplicates."""
    state = make_state(3)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    odd = [receipt(2), receipt(0, attempt=2), receipt(0), receipt(0)]
    state.handle(LeaseFinished(lease.id, odd, 1), 0.0)
    assert state.tally.succeeded == 1


def test_mini_batches_without_receipt_repeat_their_attempt():
    """The rest of an interrupted lease is not charged."""
    state = make_state(100, run_max_try=1)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    running, *_ = leases(state.handle(LeaseFinished(first.id, [receipt(0, seconds=0.001)], 1), 0.0))
    again = leases(state.handle(LeaseFinished(running.id, [receipt(running.start, seconds=0.001)], 1), 0.0))
    assert (again[0].start, again[0].stop, again[0].attempt) == (running.start + 1, running.stop, 1)


def test_the_run_fails_immediately_when_no_slot_works():
    """A script that cannot start ends the run within seconds, not after all attempts."""
    state = make_state(100)
    (a,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    (b,) = leases(state.handle(NodeOpened("b", 1), 0.0))
    assert GiveUp not in kinds(state.handle(LeaseFinished(a.id, [], 0), 0.0))
    assert kinds(state.handle(LeaseFinished(b.id, [], 0), 0.0)) == [GiveUp]


def test_the_run_waits_node_patience_when_all_nodes_are_lost():
    """A restarted node may join before node_patience is over."""
    state = make_state(10)
    state.handle(NodeOpened("a", 1), 0.0)
    assert kinds(state.handle(NodeLeft("a"), 10.0)) == []  # nothing had started: its process was still starting
    assert kinds(state.handle(Tick(), 60.0)) == []
    assert kinds(state.handle(Tick(), 71.0)) == [GiveUp]


def test_node_patience_starts_when_no_node_is_being_opened():
    """Building an environment may take longer than node_patience."""
    state = make_state(10)
    state.handle(NodesOpening(1), 0.0)
    assert kinds(state.handle(Tick(), 1000.0)) == []
    state.handle(NodesOpening(0), 1000.0)
    assert kinds(state.handle(Tick(), 1060.0)) == []
    assert kinds(state.handle(Tick(), 1061.0)) == [GiveUp]


def test_failed_nodes_do_not_end_a_run_that_opens_another():
    """The outcome does not depend on which node was first."""
    state = make_state(10)
    state.handle(NodesOpening(1), 0.0)
    (a,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    assert kinds(state.handle(LeaseFinished(a.id, [], 0), 0.0)) == []
    assert len(leases(state.handle(NodeOpened("b", 1), 1.0))) == 1
    (b,) = state._accounting.nodes["b"].leases.values()
    assert kinds(state.handle(NodesOpening(0), 1.0)) == []
    assert kinds(state.handle(LeaseFinished(b.id, [], 0), 2.0)) == [GiveUp]


def test_a_node_lost_before_a_slot_was_ready_charges_nothing():
    """No mini-batch can have started on it."""
    state = make_state(10)
    state.handle(NodeOpened("a", 1), 0.0)
    state.handle(NodeLeft("a"), 0.0)
    (first,) = leases(state.handle(NodeOpened("b", 1), 0.0))
    assert (first.start, first.attempt) == (0, 1)
    state.handle(SlotReady("b"), 0.0)
    (commit,) = state.handle(NodeLeft("b"), 0.0)
    assert [(one.outcome, state) for one, state in commit.decided] == [("lost", "waiting")]
    assert state.handle(SlotReady("unknown"), 0.0) == []


def test_a_slot_may_be_ready_before_its_node_joins():
    """Both reports take different paths, and the process may have been started in advance."""
    state = make_state(10)
    state.handle(SlotReady("a"), 0.0)
    state.handle(NodeOpened("a", 1), 0.0)
    (commit,) = [one for one in state.handle(NodeLeft("a"), 0.0) if isinstance(one, Commit)]
    assert [one.outcome for one, _ in commit.decided] == ["lost"]


def test_nothing_happens_after_the_end():
    """An abort is final: later answers change nothing."""
    state = make_state(10, run_max_try=1, allowed_failed_count=0)
    first, *_ = leases(state.handle(NodeOpened("a", 2), 0.0))
    assert kinds(state.handle(answer(first, lambda i, attempt: "raised"), 0.0)) == [Commit, Abort]
    assert state.handle(NodeOpened("b", 1), 1.0) == []


def ready_nodes(state, now, **slots):
    """Add nodes whose processes have started; return their leases."""
    out = []
    for name, number in slots.items():
        out += leases(state.handle(NodeOpened(name, number), now))
        for _ in range(number):
            out += leases(state.handle(SlotReady(name), now))
    return out


def recalls(instructions):
    return [(one.lease, one.at_once) for one in instructions if isinstance(one, Recall)]


def test_many_leases_are_examined_rarely():
    """A rebalance looks at every lease: with thousands of them it must not happen at every event, and none is forgotten."""
    state = make_state(1_000, policy={"shared_workers": True})
    todo = ready_nodes(state, 0.0, a=1_000)
    assert len(todo) == 1_000

    def finish(lease, now):
        return recalls(state.handle(answer(lease, slots=1_000), now))

    assert finish(todo[999], 1.0) == [(todo[0].id, False)]
    assert finish(todo[998], 1.01) == []
    assert state.next_due == pytest.approx(1.1, abs=0.001)
    assert recalls(state.handle(Tick(), state.next_due)) == [(todo[1].id, False)]


def test_an_idle_slot_gets_the_unstarted_rest_of_a_lease():
    """Nothing waits behind a slow mini-batch while another slot is idle."""
    state = make_state(100, max_per_lease=8)
    todo = ready_nodes(state, 0.0, a=1, b=1)
    stuck = None
    while todo:
        lease = todo.pop(0)
        if lease.node == "a" and lease.count > 1 and stuck is None:
            stuck = lease
            continue
        if stuck is not None and lease.node == "a":
            continue  # queued behind it
        receipts = [receipt(i, seconds=0.001) for i in range(lease.start, lease.stop)]
        todo += leases(state.handle(LeaseFinished(lease.id, receipts, 1), 1.0))
    assert state.next_due == pytest.approx(1.1)
    asked = recalls(state.handle(Tick(), 5.0))
    assert asked == [(stuck.id, False)]
    assert recalls(state.handle(Tick(), 6.0)) == []  # recalled once, for the one idle slot
    given = leases(state.handle(LeaseShortened(stuck.id, stuck.start + 1), 6.0))
    assert given[0].node == "b"
    assert given[0].start == stuck.start + 1
    done = state.handle(LeaseFinished(stuck.id, [receipt(stuck.start)], 1), 7.0)
    assert state.tally.succeeded == 100 - sum(lease.count for lease in state._accounting.leases.values()) - sum(
        stop - start for start, stop, *_ in state._queue._returned
    )
    assert Finish not in kinds(done)


def test_a_lease_unknown_to_its_node_is_recalled_again():
    """The recall can overtake the lease."""
    state = make_state(3, max_per_lease=8)
    first, second = ready_nodes(state, 0.0, a=1, b=1)
    (third,) = leases(state.handle(LeaseFinished(second.id, [receipt(1, seconds=10.0)], 1), 0.0))
    state.handle(LeaseFinished(first.id, [receipt(0)], 1), 0.0)
    assert third.node == "b"
    assert recalls(state.handle(Tick(), 1.0)) == []  # one running mini-batch: nothing to return


def slow_one(now=0.0, **options):
    """Return a state in which node b duplicates the slow mini-batch of node a."""
    state = make_state(2, policy={"speculative": True}, **options)
    first, second = ready_nodes(state, now, a=1, b=1)
    done = state.handle(LeaseFinished(second.id, [receipt(1, seconds=1.0)], 1), now + 1)
    assert recalls(done) == [(first.id, False)]
    assert leases(done) == []
    assert leases(state.handle(LeaseShortened(first.id, 1), now + 1.1)) == []  # it has not run long enough
    assert state.next_due == pytest.approx(now + 2.6)
    (copy,) = leases(state.handle(Tick(), now + 2.7))
    assert (copy.node, copy.start, copy.stop, copy.attempt) == ("b", 0, 1, 1)
    return state, first, copy


def test_the_first_success_of_two_duplicates_counts():
    """The other lease is stopped, and its receipt is ignored."""
    state, first, copy = slow_one()
    done = state.handle(LeaseFinished(copy.id, [receipt(0)], 1), 3.0)
    assert kinds(done) == [Recall, Commit, Finish]
    assert recalls(done) == [(first.id, True)]
    assert state.tally.succeeded == 2
    assert state.handle(answer(first), 3.1) == []
    assert state.tally.succeeded == 2

    state, first, copy = slow_one()
    done = state.handle(LeaseFinished(first.id, [receipt(0)], 1), 3.0)
    assert recalls(done) == [(copy.id, True)]
    assert kinds(done)[-1] is Finish


@pytest.mark.parametrize("who", ["first", "copy"])
def test_one_failure_of_two_duplicates_decides_nothing(who):
    """They are one attempt, which fails when both have failed."""
    state, *both = slow_one(run_max_try=1)
    one, other = both if who == "first" else both[::-1]
    assert kinds(state.handle(answer(one, lambda i, attempt: "raised"), 3.0)) == []
    done = state.handle(answer(other, lambda i, attempt: "raised"), 4.0)
    assert kinds(done) == [Commit, Finish]
    assert (state.tally.failed, state.tally.succeeded) == (1, 1)


@pytest.mark.parametrize("who", ["first", "copy"])
def test_one_of_two_duplicates_may_be_lost_without_charge(who):
    """The other continues the same attempt."""
    state, *both = slow_one(run_max_try=1)
    one, other = both if who == "first" else both[::-1]
    assert Commit not in kinds(state.handle(NodeLeft(one.node), 3.0))
    assert kinds(state.handle(answer(other), 4.0)) == [Commit, Finish]


def test_a_lost_duplicate_does_not_charge_what_had_finished():
    """Finished mini-batches whose receipts are lost run again; they did not kill the node."""
    state = make_state(3, policy={"speculative": True}, run_max_try=1, max_per_lease=2)
    first, second = ready_nodes(state, 0.0, a=1, b=1)
    (both,) = leases(state.handle(LeaseFinished(first.id, [receipt(0, seconds=0.001)], 1), 0.0))
    state._accounting.leases[both.id] = state._accounting.nodes["a"].leases[both.id] = both = replace(
        both, start=both.start - 1
    )  # of two
    state.handle(LeaseFinished(second.id, [receipt(second.start, seconds=0.001)], 1), 1.0)
    state.handle(LeaseShortened(both.id, both.stop), 1.0)
    (copy,) = leases(state.handle(Tick(), 9.0))
    assert copy.start == both.stop - 1
    assert Commit not in kinds(state.handle(NodeLeft("a"), 9.5))


def test_the_heap_of_node_loads_stays_small():
    """Outdated entries are dropped."""
    state = make_state(200_000, max_per_lease=1)
    todo = ready_nodes(state, 0.0, a=4, b=4, c=4)
    for _ in range(20_000):
        lease = todo.pop(0)
        todo += leases(state.handle(answer(lease, slots=4), 0.0))
    assert len(state._accounting._loads._heap) < 200


def test_a_retry_that_waits_for_a_slot_sets_no_due_time():
    """The dispatcher only wakes for due times in the future."""
    remainder = PendingWork(
        tally=Tally(planned=3, waiting=3, items=30, waiting_items=30),
        pending=(),
        waiting=tuple((index, 2, ITEMS, 0) for index in range(3)),
    )
    state = RunState(SchedulingPolicy(run_max_try=3, limits=FailureLimits()), remainder, lambda index: ITEMS)
    assert state.next_due == 0.0
    assert len(leases(state.handle(NodeOpened("a", 1), 5.0))) == 1
    assert state.next_due is None


def test_nothing_is_duplicated_unless_it_is_enabled():
    """A slow mini-batch that is alone in its lease has nothing to return."""
    state = make_state(2)
    _, second = ready_nodes(state, 0.0, a=1, b=1)
    state.handle(LeaseFinished(second.id, [receipt(1, seconds=1.0)], 1), 1.0)
    assert state.handle(Tick(), 100.0) == []
    assert state.next_due is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_mini_batch_is_decided_exactly_once(data):  # noqa: PLR0912, PLR0915  one scenario in one function
    """Random nodes, losses, failures, late answers, a growing plan: counts add up, and no attempt is one too many."""
    planned = data.draw(st.integers(1, 60))
    known = data.draw(st.integers(0, planned))  # when the run starts
    run_max_try = data.draw(st.integers(1, 3))
    state = make_state(
        known,
        run_max_try=run_max_try,
        max_per_lease=data.draw(st.integers(1, 20)),
        is_growing=True,
        policy={"speculative": data.draw(st.booleans())},
    )
    is_growing = True
    decided, tries, out, zombies, joined, asked = {}, {}, {}, [], 0, {}
    now, ended = 0.0, False

    def take(instructions):
        nonlocal ended
        for instruction in instructions:
            if isinstance(instruction, SubmitLease):
                out[instruction.lease.id] = instruction.lease
                running = [one for one in state._accounting.leases.values() if one.start <= instruction.lease.start < one.stop]
                assert len(running) <= 2
            elif isinstance(instruction, Recall):
                asked.setdefault(instruction.lease, instruction.at_once)
            elif isinstance(instruction, Commit):
                for one, where in instruction.decided:
                    assert one.mini_batch not in decided
                    tries[one.mini_batch] = tries.get(one.mini_batch, 0) + 1
                    assert tries[one.mini_batch] == one.attempt <= run_max_try
                    if where != "waiting":
                        decided[one.mini_batch] = where
            elif isinstance(instruction, Finish):
                ended = True

    for turn in range(2000):
        if ended:
            break
        now += 0.1
        acts = ["answer"] * 6 + ["lose", "zombie", "partial", "grow", "tick", "tick", "ready"]
        act = data.draw(st.sampled_from(acts if turn < 300 else ["answer"])) if out else "join"
        if (number := next(iter(asked), None)) is not None and data.draw(st.booleans()):
            if not asked.pop(number) and number in out:  # the unstarted rest returns before or after the receipts
                lease = out[number]
                stop = data.draw(st.integers(lease.start, lease.stop))
                take(state.handle(LeaseShortened(number, data.draw(st.sampled_from([stop, stop, None]))), now))
                out[number] = (
                    replace(lease, stop=max(stop, lease.start)) if state._accounting.leases[number].stop <= stop else lease
                )
            continue
        if act == "tick":
            take(state.handle(Tick(), now))
            continue
        if act == "ready":
            take(state.handle(SlotReady(f"n{joined}"), now))
            continue
        if is_growing and (act == "grow" or not out):
            more = data.draw(st.integers(min(1, planned - known), planned - known))
            known += more
            assert not state.tally.all_scheduled
            take(state.handle(PlanGrew([ITEMS] * more), now))
            if known == planned:
                is_growing = False
                take(state.handle(PlanEnded(), now))
            continue
        if act == "join":
            joined += 1
            take(state.handle(NodeOpened(f"n{joined}", 2), now))
            continue
        lease: Lease = out[data.draw(st.sampled_from(sorted(out)))]
        if act == "lose":
            zombies += [gone for gone in out.values() if gone.node == lease.node]
            for gone in zombies:
                out.pop(gone.id, None)
            take(state.handle(NodeLeft(lease.node), now))
        elif act == "zombie" and zombies:
            assert Commit not in kinds(state.handle(answer(zombies.pop(), slots=2), now))
        else:
            del out[lease.id]
            stop = lease.stop if act != "partial" else data.draw(st.integers(lease.start, lease.stop))
            receipts = [
                receipt(i, lease.attempt, data.draw(st.sampled_from(["succeeded", "succeeded", "raised"])))
                for i in range(lease.start, stop)
            ]
            take(state.handle(LeaseFinished(lease.id, receipts, 2), now))
    assert ended
    assert not is_growing
    assert sorted(decided) == list(range(planned))
    tally = state.tally
    assert tally.succeeded + tally.failed == planned
    assert tally.succeeded_items + tally.failed_items == planned * ITEMS
