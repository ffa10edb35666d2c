"""The pace over all processes, and the delays of retries, on a clock of the test."""

import heapq
import math
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_parallel_run.dispatch.autoscaler import IDLE_SECONDS, UNNEEDED_SECONDS, Autoscaler, NodeBounds
from prefect_parallel_run.dispatch.events import (
    Commit,
    GiveUp,
    LeaseFinished,
    LeaseShortened,
    LimitsChanged,
    NodeLeft,
    NodeOpened,
    Recall,
    SlotReady,
    SlotUnusable,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.pacing import Pace, RetryDelay
from prefect_parallel_run.models import FailureLimits
from prefect_parallel_run.node.child_startup import StartFailure

from .test_state import answer, leases, make_state, receipt

MINUTE, LATE = 60.0, 0.1  #: s


def most_beyond(starts, rates):
    """Return how many starts any period has beyond its rate; *rates*: when each one was set, and how many per minute it is."""

    def allowed(time):
        """Return how many starts the rates allow until *time*."""
        ends = [*(since for since, _ in rates[1:]), math.inf]
        return sum(max(0.0, min(time, end) - since) * rate / MINUTE for (since, rate), end in zip(rates, ends, strict=True))

    lowest, most = math.inf, 0.0
    for count, start in enumerate(sorted(starts)):
        lowest = min(lowest, count - allowed(start))
        most = max(most, count + 1 - allowed(start) - lowest)
    return most


class Run:
    """A run on a clock of its own, whose slots take random times; *late* is how late the dispatcher handles an event, s.

    What starts during the *stall*, a half-open period, ends after it.
    """

    def __init__(self, state, slots, seconds, late=0.0, seed=1, stall=(0.0, 0.0)):
        self.state, self.seconds, self.late, self.stall = state, seconds, late, stall
        self.random = random.Random(seed)
        self.starts, self.now, self.ends = [], 0.0, []
        for node, count in slots.items():
            self.handle(NodeOpened(node, count))
            for _ in range(count):
                self.handle(SlotReady(node))

    def handle(self, event):
        instructions = self.state.handle(event, self.now)
        for lease in leases(instructions):
            start = self.now
            for _ in range(lease.count):
                self.starts.append(start)
                start += self.seconds * self.random.uniform(0.5, 1.5)
                if self.stall[0] <= self.starts[-1] < self.stall[1]:
                    start += self.stall[1] - self.starts[-1]
            heapq.heappush(self.ends, (start, lease.id, lease))
        return instructions

    def until(self, end):
        """Handle the end of leases, and wake up when the state asks for it, until *end* or until nothing happens."""
        while True:
            times = [self.ends[0][0]] if self.ends else []
            due = self.state.next_due
            times += [] if due is None else [due]
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times)) + self.late * self.random.random()
            if self.ends and self.ends[0][0] <= self.now:
                _, _, lease = heapq.heappop(self.ends)
                self.handle(answer(lease, slots=8))
            else:
                self.handle(Tick())


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from([(6, 20), (60, 200), (600, 1_500), (6_000, 9_000)]),
    st.sampled_from([0.005, 0.05, 1.0]),
    st.floats(0, 0.003),
    st.integers(0, 9),
)
def test_the_pace_is_obeyed_within_a_tenth(rate_and_count, seconds, late, seed):
    """In no period more, and with enough processes no less over the whole time."""
    rate, count = rate_and_count
    nodes = 1 + int(rate / MINUTE * seconds / 4)  # of 8 processes: twice as many as are busy
    state = make_state(count, policy={"per_minute": rate})
    run = Run(state, {f"n{number}": 8 for number in range(nodes)}, seconds, late, seed)
    run.until(10 * MINUTE)
    assert len(run.starts) == count == state.tally.succeeded
    assert most_beyond(run.starts, [(0.0, rate)]) <= rate / MINUTE * LATE + 1.001
    assert max(run.starts) <= 1.1 * count / rate * MINUTE


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.sampled_from([6, 60, 600, 6_000, 20_000])), min_size=1, max_size=4),
    st.sampled_from([0.005, 0.5]),
    st.integers(1, 64),
    st.floats(0.0, 3.0),
    st.floats(0.0, 30.0),
)
@example([(1.0, 6_000), (2.0, 6), (1.0, 6_000)], 0.005, 1, 0.0, 1.0)
def test_nothing_makes_a_burst(changes, seconds, processes, stalls_at, stalled):
    """Neither the beginning, nor a service that stalls, nor another rate: the bound holds in every period."""
    (_, rate), *changes = changes
    state = make_state(100_000, policy={"per_minute": rate})
    run = Run(state, {"a": processes}, seconds, stall=(stalls_at, stalls_at + stalled))
    rates = [(0.0, rate)]
    for after, rate in changes:
        run.until(run.now + after)
        run.handle(LimitsChanged(FailureLimits(), rate))
        rates.append((run.now, rate))
    run.until(run.now + stalls_at + stalled + 2.0)
    highest = max(rate for _, rate in rates)
    assert most_beyond(run.starts, rates) <= highest / MINUTE * LATE + len(rates) + 0.001


def test_a_new_limit_recalls_what_has_not_started():
    """Leases that were handed out without one hold seconds of work, which would start without a pause."""
    state = make_state(10_000)
    (first,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    state.handle(SlotReady("a"), 0.0)
    running, waiting = leases(state.handle(LeaseFinished(first.id, [receipt(0, seconds=0.001)], 1), 1.0))
    assert running.count > 1
    limited = LimitsChanged(FailureLimits(), 60.0)
    recalls = [Recall(lease.id, at_once=False) for lease in (running, waiting)]
    assert state.handle(limited, 1.05) == []  # they may not have reached their node yet
    assert state.next_due == pytest.approx(1.1)
    assert state.handle(Tick(), 1.11) == recalls
    assert state.handle(LeaseShortened(running.id, running.start + 1), 1.2) == []
    assert state.handle(LeaseShortened(waiting.id, waiting.start), 1.2) == []
    assert leases(state.handle(LeaseFinished(waiting.id, [], 1), 1.3)) == []
    (next_one,) = leases(state.handle(LeaseFinished(running.id, [receipt(running.start)], 1), 3.0))
    assert (next_one.start, next_one.count) == (running.start + 1, 1)


def test_a_mini_batch_waits_for_its_time_and_an_idle_process():
    """A process that is starting would start it later, together with others; only the very first waits for it."""
    state = make_state(5, policy={"per_minute": 6})
    (first,) = leases(state.handle(NodeOpened("a", 2), 0.0))
    assert leases(state.handle(SlotReady("a"), 15.0)) == []  # for the first
    (second,) = leases(state.handle(SlotReady("a"), 16.0))
    assert (first.count, second.count, state.next_due) == (1, 1, None)
    assert leases(state.handle(Tick(), 40.0)) == []  # no process is idle
    (third,) = leases(state.handle(answer(first, slots=2), 40.1))
    assert leases(state.handle(answer(second, slots=2), 40.2)) == []  # it does not catch up
    assert third.start == 2
    assert state.next_due == pytest.approx(50.0, abs=0.2)


def test_a_script_that_never_starts_ends_the_run():
    """A paced run hears of it by a lease like any other; an idle process is not waited for."""
    state = make_state(5, policy={"per_minute": 6})
    (first,) = leases(state.handle(NodeOpened("a", 2), 0.0))
    assert leases(state.handle(NodeOpened("b", 2), 0.0)) == []
    assert leases(state.handle(LeaseFinished(first.id, [], 0), 1.0)) == []
    (again,) = leases(state.handle(Tick(), 10.0))
    assert (again.node, again.start) == ("b", 0)
    (end,) = state.handle(LeaseFinished(again.id, [], 0), 11.0)
    assert end == GiveUp(slots_failed=True)


def test_an_unusable_node_is_known_without_a_lease():
    """Other nodes may do all of the work; the report may arrive before that of the node itself."""
    state, failure = make_state(5, policy={"per_minute": 6}), StartFailure("init", "OSError", "no GPU", "")
    state.handle(SlotUnusable("a", 1, failure), 0.0)
    state.handle(SlotUnusable("a", 0, failure), 0.0)
    (first,) = leases(state.handle(NodeOpened("b", 1), 0.0))
    assert leases(state.handle(NodeOpened("a", 2), 0.1)) == []
    assert (first.node, state.demand.slots) == ("b", 1)
    assert state.handle(SlotUnusable("b", 0, failure), 1.0) == []  # the lease may still return a receipt
    assert state.handle(LeaseFinished(first.id, [], 0), 2.0) == [GiveUp(slots_failed=True)]


def test_the_pace_can_be_changed():
    """The next mini-batch obeys the new rate, and -1 ends the limit."""
    state = make_state(500, policy={"per_minute": 6})
    run = Run(state, {"a": 4}, 0.01)
    run.until(60.0)
    assert len(run.starts) == 7
    run.handle(LimitsChanged(FailureLimits(), 120.0))
    run.until(120.0)
    assert len(run.starts) - 7 == pytest.approx(120, abs=2)
    run.handle(LimitsChanged(FailureLimits(), -1))
    run.until(180.0)
    assert len(run.starts) == 500


def test_a_lower_pace_releases_nodes():
    """It fills few nodes, so that the others are idle, and none of its mini-batches starts later for that."""
    state = make_state(10**6, policy={"per_minute": 1_920, "fills_nodes": True})
    run = Run(state, dict.fromkeys("abcd", 8), 0.9)  # 32 per second keep about 29 of 32 processes busy
    autoscaler = Autoscaler(NodeBounds(at_least=1, at_most=4), lambda nodes: None, lambda workers: None, print)

    def go_on(seconds):
        for _ in range(int(seconds)):
            run.until(run.now + 1)
            for node in autoscaler.step(run.now, state.demand):
                run.handle(NodeLeft(node))
        return sorted(state._accounting.nodes)

    assert go_on(60) == ["a", "b", "c", "d"]
    run.handle(LimitsChanged(FailureLimits(), 240))
    assert go_on(UNNEEDED_SECONDS - 1) == ["a", "b", "c", "d"]
    assert len(go_on(IDLE_SECONDS)) == 1
    before = len(run.starts)
    assert len(go_on(600)) == 1
    assert len(run.starts) - before == pytest.approx(2_400, rel=0.01)
    assert state.tally.failed == state.tally.waiting == 0


def test_a_retry_counts():
    """It calls the service too."""
    state = make_state(2, policy={"per_minute": 60})
    (first,) = leases(state.handle(NodeOpened("a", 2), 0.0))
    (second,) = leases(state.handle(answer(first, lambda *_: "raised"), 1.0))
    assert (second.start, second.attempt) == (0, 2)
    assert leases(state.handle(SlotReady("a"), 1.1)) == []


def test_the_script_sets_the_delay():
    """RetryLater(30) arrives as retry_after in the receipt; it counts as an attempt."""
    state = make_state(1, run_max_try=2, retry_delay=5.0)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    failed = receipt(0, 1, "raised")._replace(retry_after=30.0)
    assert leases(state.handle(LeaseFinished(lease.id, [failed], 1), 1.0)) == []
    assert state.next_due == 31.0
    (again,) = leases(state.handle(Tick(), 31.0))
    ended = state.handle(LeaseFinished(again.id, [receipt(0, 2, "raised")._replace(retry_after=30.0)], 1), 32.0)
    assert [state for step in ended if isinstance(step, Commit) for _, state in step.decided] == ["failed"]
    assert not [step for step in ended if isinstance(step, SubmitLease)]


def test_the_script_may_ask_for_no_delay():
    """RetryLater(0) replaces retry_delay_seconds like any other number."""
    state = make_state(1, retry_delay=5.0)
    (lease,) = leases(state.handle(NodeOpened("a", 1), 0.0))
    failed = receipt(0, 1, "raised")._replace(retry_after=0.0)
    (again,) = leases(state.handle(LeaseFinished(lease.id, [failed], 1), 1.0))
    assert (again.start, again.attempt) == (0, 2)


@pytest.mark.parametrize("first", [1e-6, 0.1, 1.0, 60.0, 3600.0])
def test_delays_grow_to_the_longest(first):
    """An hour, also from below a second."""
    delay, expected = RetryDelay(seconds=first, backoff=10.0), first
    for attempt in range(2, 20):
        assert delay.before(0, attempt) == pytest.approx(expected)
        expected = min(10 * expected, 3600)
    assert delay.before(0, 100_000) == pytest.approx(3600)


def test_a_delay_beyond_the_longest_stays():
    """An hour limits the growth, not what was configured or requested."""
    assert RetryDelay(seconds=7200.0, backoff=2.0, jitter=0.5).before(0, 9) == 7200
    assert RetryDelay(seconds=1.0, backoff=2.0, jitter=0.5).before(0, 9, 7200) == 7200


def test_delays_are_equal_without_a_factor():
    """Zero stays zero."""
    assert [RetryDelay(seconds=3.0).before(0, attempt) for attempt in (2, 9)] == [3, 3]
    assert RetryDelay(backoff=2.0, jitter=1.0).before(0, 5) == 0


@given(
    st.floats(0, 1e5),
    st.floats(1, 1e6),
    st.floats(0, 100),
    st.integers(0, 10**9),
    st.integers(2, 10**6),
    st.none() | st.floats(0, 1e9),
)
def test_a_delay_with_its_jitter_stays_within_its_bounds(seconds, backoff, jitter, mini_batch, attempt, requested):
    """From the first delay, or the requested one, to an hour or the first one; and equal events give equal delays."""
    first = seconds if requested is None else requested
    plain = RetryDelay(seconds=seconds, backoff=backoff).before(mini_batch, attempt, requested)
    jittered = RetryDelay(seconds=seconds, backoff=backoff, jitter=jitter)
    delay = jittered.before(mini_batch, attempt, requested)
    assert first <= delay <= max(first, 3600)
    assert plain / (1 + jitter) * (1 - 1e-9) <= delay <= plain * (1 + jitter) * (1 + 1e-9)
    assert delay == jittered.before(mini_batch, attempt, requested)


@pytest.mark.parametrize(("attempt", "shortest", "longest"), [(2, 10, 20), (3, 100, 200), (100, 1800, 3600)])
def test_the_jitter_spreads_mini_batches(attempt, shortest, longest):
    """Those that failed together are not retried together, also at the longest delay."""
    delay = RetryDelay(seconds=10.0, backoff=10.0, jitter=1.0)
    tenths = Counter(int(10 * (delay.before(n, attempt) - shortest) / (longest - shortest)) for n in range(1_000))
    assert sorted(tenths) == list(range(10))
    assert all(60 < count < 140 for count in tenths.values()), tenths


def test_no_limit_is_no_pace():
    """None and -1."""
    for value in (None, -1):
        assert not Pace(value).is_limited
