"""What is told, how often, and in which words."""

import logging

import pytest

from prefect_parallel_run.dispatch.lease_size import LeaseSizer
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.logs import RunLog
from prefect_parallel_run.monitoring.progress import LogThrottle, ProgressSnapshot, forecast, sentence
from prefect_parallel_run.monitoring.progress_tracker import ProgressTracker
from prefect_parallel_run.monitoring.watch import LogWatch
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.ledger import Ledger
from prefect_parallel_run.runs.run_directory import RunDirectory


def failed(index, fingerprint="f1", error="bad"):
    return Receipt(
        index,
        1,
        "raised",
        *(10, 0, 10, 0, "", 0, 0, 0, 0, 0.0, 0.1, "node-0", 1, "ValueError", error, "Traceback\n  x", fingerprint),
    )


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG)
    now = [0.0]
    made = RunLog(logging.getLogger("test"), clock=lambda: now[0])
    made.now = now
    return made


def test_the_first_failure_of_each_cause_is_told_with_its_traceback(log, caplog):
    """A million failures of one cause are one line."""
    for index in range(5):
        log.tried(failed(index), "waiting")
    log.tried(failed(9, "f2", "worse \x1b[2J"), "failed")
    assert len(caplog.records) == 2
    assert "mini-batch 0 failed at try 1 on node-0 (raised), it will be tried again: ValueError: bad" in caplog.text
    assert "Traceback" in caplog.text
    assert "no try is left: ValueError: worse \\x1b[2J" in caplog.text
    assert "\x1b" not in caplog.records[1].getMessage()
    assert (caplog.records[0].action, caplog.records[0].mini_batch, caplog.records[0].attempt) == ("attempt_failed", 0, 1)


def test_the_number_of_causes_told_is_bounded(log, caplog):
    """Errors whose fingerprints all differ do not flood the log."""
    for index in range(1000):
        log.tried(failed(index, f"f{index}"), "waiting")
    assert len(caplog.records) == 20


def test_progress_is_told_every_half_minute_or_five_percent():
    """And never more than every two seconds."""
    pace = LogThrottle(0.0)
    assert not pace.is_due(Tally(planned=100, succeeded=50), 1.9)
    assert pace.is_due(Tally(planned=100, succeeded=50), 2.0)
    assert not pace.is_due(Tally(planned=100, succeeded=54), 20.0)
    assert pace.is_due(Tally(planned=100, succeeded=55), 20.0)
    assert not pace.is_due(Tally(planned=100, succeeded=55), 49.9)
    assert pace.is_due(Tally(planned=100, succeeded=55), 50.0)


def test_the_sentence_has_counts_rate_and_time_to_go():
    """What was done before this driving does not make the rate look better."""
    tally = Tally(planned=100, succeeded=58, failed=2, waiting=3, succeeded_items=580, failed_items=20)
    going = ProgressSnapshot(tally=tally, elapsed=12.0, at_work=10.0, done=20, slots=2)
    assert sentence(going) == (
        "60 of 100 mini-batches (60 %), 580 items, 2 mini-batches and 20 items failed, 3 waiting for another try,"
        " 2.0 mini-batches/s, 20 s to go"
    )


@pytest.mark.parametrize(
    ("tally", "facts", "words"),
    [
        ({"succeeded": 7}, {"done": 7}, ""),  # fewer than two for each of four slots
        ({"succeeded": 8}, {"done": 8, "at_work": 0.9}, ""),
        ({"succeeded": 8}, {"done": 8}, "23 s to go"),
        ({"succeeded": 95}, {"done": 95}, "1.2 s to go"),
        ({"succeeded": 96}, {"done": 96}, "waiting for 4 mini-batches"),
        ({"succeeded": 98, "failed": 1}, {"done": 99}, "waiting for 1 mini-batch"),
        ({"succeeded": 100}, {"done": 100}, ""),
        ({"succeeded": 50, "is_growing": True}, {"done": 50}, ""),
        ({"succeeded": 50}, {"done": 50, "held": Breach("error_threshold", 4, 20)}, "held back: error_threshold 4 is near"),
        ({"succeeded": 50, "all_scheduled": True}, {"done": 50, "held": Breach("error_threshold", 4, 20)}, "12 s to go"),
        ({"succeeded": 50}, {"done": 50, "held": Breach("error_threshold", 4, 20), "is_paused": True}, "paused"),
    ],
)
def test_a_time_to_go_is_told_when_it_means_something(tally, facts, words):
    """Not of the first few, nor while nothing new is begun, nor when only what runs is waited for."""
    given = {"rate": 4.0, "at_work": 10.0, "slots": 4, **facts}
    assert str(forecast(Tally(planned=100, **tally), **given)) == words


def test_the_course_counts_from_the_first_try_and_leaves_pauses_out():
    """What was done before, the start of processes and pauses make the rate neither better nor worse."""
    now = [100.0]
    course = ProgressTracker(Tally(planned=60, succeeded=20), lambda: now[0])
    course.node_joined(NodeFacts(node="node-0", host="h", pid=1, cores=2, slots=2))
    now[0] = 110.0
    course.committed([failed(20), failed(21)])  # each took 0.1 s
    course.committed([failed(22)])
    now[0] = 112.8
    course.paused(True)
    now[0] = 150.0
    assert str(course.going(Tally(planned=60, succeeded=26)).outlook) == "paused"
    course.paused(False)
    now[0] = 151.0
    going = course.going(Tally(planned=60, succeeded=28))
    assert (going.elapsed, going.done, going.slots) == (51.0, 8, 2)
    assert going.at_work == pytest.approx(4.0)
    assert str(going.outlook) == "16 s to go"
    course.node_gone("node-0")
    assert course.going(Tally(planned=60, succeeded=28)).slots == 0


def test_holding_back_is_told(log, caplog):
    """With the limit that is near."""
    log.held(Breach("error_threshold", 3, 5))
    log.held(None)
    assert "error_threshold = 3 would be exceeded" in caplog.text
    assert "handed out again" in caplog.text


def test_leases_grow_to_half_a_second_and_shrink_at_the_end():
    """One at the start, eightfold growth, a fair share near the end, never more than fits or is there."""
    sizer = LeaseSizer(max_size=3000)
    assert sizer.size(10_000, 4) == 1
    sizer.record(1, 0.001)
    assert sizer.size(10_000, 4) == 8
    sizer.record(8, 0.008)
    assert sizer.size(10_000, 4) == 64
    for _ in range(10):
        sizer.record(500, 0.5)
    assert sizer.size(1_000_000, 4) == 500
    assert sizer.size(1_200, 4) == 100
    assert sizer.size(3, 4) == 1
    fast = LeaseSizer(max_size=3000)
    for _ in range(10):
        fast.record(3000, 0.01)
    assert fast.size(10_000_000, 2) == 3000
    assert fast.size(10_000, 2) == 3000  # far less than the least worth sending; but both slots get some
    assert fast.size(1_000, 2) == 500
    slow = LeaseSizer(max_size=3000)
    slow.record(1, 100.0)
    assert slow.size(1_000, 2) == 1


@pytest.mark.parametrize(
    ("dashboard", "end"), [("", ""), ("http://127.0.0.1:1/status", "; Dask dashboard http://127.0.0.1:1/status")]
)
def test_the_first_log_line_names_a_dashboard_only_if_served(tmp_path, caplog, dashboard, end):
    """A line that ends in an empty link looks like a fault."""
    run = RunDirectory(tmp_path / "run")
    run.make()
    Ledger.create(run.ledger, [2, 2]).close()
    with caplog.at_level(logging.INFO):
        LogWatch("test", logging.getLogger("test")).began(run, Tally(planned=2, items=4), dashboard)
    assert caplog.messages[0] == f"test: 2 mini-batches, 4 items; run directory {run.path}{end}"
