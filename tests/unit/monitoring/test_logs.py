"""The log lines of a run: content, frequency and wording."""

import logging
from pathlib import Path

import pytest

from prefect_parallel_run.dispatch.work_queue import LeaseSizer
from prefect_parallel_run.errors import LimitExceededError, NothingSucceededError
from prefect_parallel_run.models import Breach, Receipt, Tally
from prefect_parallel_run.monitoring.listeners import listeners_of
from prefect_parallel_run.monitoring.logs import RunLog
from prefect_parallel_run.monitoring.progress import LogThrottle, ProgressSnapshot, ProgressTracker, progress_message
from prefect_parallel_run.node.settings import NodeFacts
from prefect_parallel_run.runs.events import (
    AttemptFailed,
    NodeJoined,
    NodeLost,
    ReceiptsCommitted,
    RunContinued,
    RunPaused,
    RunStarted,
    SchedulingPaused,
    SchedulingResumed,
    emit_to,
)
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
    return RunLog("test", logging.getLogger("test"), ProgressTracker(), clock=lambda: now[0])


def test_first_failure_of_each_cause_is_logged_with_traceback(log, caplog):
    """A million failures of one cause are one line."""
    for index in range(5):
        log.handle(AttemptFailed(failed(index), "waiting"))
    log.handle(AttemptFailed(failed(9, "f2", "worse \x1b[2J"), "failed"))
    assert len(caplog.records) == 2
    assert "mini-batch 0 failed at attempt 1 on node-0 (raised), it will be retried: ValueError: bad" in caplog.text
    assert "Traceback" in caplog.text
    assert "no attempts left: ValueError: worse \\x1b[2J" in caplog.text
    assert "\x1b" not in caplog.records[1].getMessage()
    assert (caplog.records[0].action, caplog.records[0].mini_batch, caplog.records[0].attempt) == ("attempt_failed", 0, 1)


def test_a_retry_that_the_script_asks_for_is_one_line(log, caplog):
    """RetryLater is raised on purpose: its reason is enough, and the ledger keeps the traceback."""
    log.handle(AttemptFailed(failed(0, error="the service is busy")._replace(retry_after=0.0), "waiting"))
    (record,) = caplog.records
    assert record.getMessage().endswith("it will be retried: ValueError: the service is busy")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (
            1,
            [
                "1 of 1 mini-batch (100 %), 1 item",
                "1 failed item, 0 allowed",
                "0 of 1 item succeeded",
                "1 failed mini-batch,",
            ],
        ),
        (2, ["2 of 2 mini-batches (100 %), 2 items", "2 failed items, 0 allowed", "0 of 2 items", "2 failed mini-batches,"]),
    ],
    ids=["one", "two"],
)
def test_a_count_has_its_noun_in_singular_or_plural(number, expected):
    """In progress and in errors."""
    tally = Tally(planned=number, items=number, succeeded=number, succeeded_items=number)
    messages = [
        progress_message(ProgressSnapshot(tally=tally, elapsed=1.0, active_seconds=1.0, done=number)),
        str(LimitExceededError("error_threshold", 0, number)),
        str(NothingSucceededError(number)),
        str(LimitExceededError("allowed_failed_count", 0, number)),
    ]
    for message, text in zip(messages, expected, strict=True):
        assert text in message


def test_number_of_logged_causes_is_bounded(log, caplog):
    """Errors whose fingerprints all differ do not flood the log."""
    for index in range(1000):
        log.handle(AttemptFailed(failed(index, f"f{index}"), "waiting"))
    assert len(caplog.records) == 20


def test_progress_is_logged_every_30_seconds_or_5_percent():
    """And at most every two seconds: a short run needs no line per 5 %."""
    throttle = LogThrottle(0.0)
    assert not throttle.is_due(Tally(planned=100, succeeded=50), 1.9)
    assert throttle.is_due(Tally(planned=100, succeeded=50), 2.0)
    assert not throttle.is_due(Tally(planned=100, succeeded=54), 20.0)
    assert throttle.is_due(Tally(planned=100, succeeded=55), 20.0)
    assert not throttle.is_due(Tally(planned=100, succeeded=55), 49.9)
    assert throttle.is_due(Tally(planned=100, succeeded=55), 50.0)


def test_progress_message_has_counts_rate_and_time_to_go():
    """Mini-batches of earlier executions do not raise the rate."""
    tally = Tally(planned=100, succeeded=58, failed=2, waiting=3, succeeded_items=580, failed_items=20)
    snapshot = ProgressSnapshot(tally=tally, elapsed=12.0, active_seconds=10.0, done=20, slots=2)
    assert progress_message(snapshot) == (
        "60 of 100 mini-batches (60 %), 580 items, 2 mini-batches and 20 items failed, 3 awaiting retry,"
        " 2.0 mini-batches/s, 20 s to go"
    )


@pytest.mark.parametrize(
    ("tally", "figures", "expected"),
    [
        ({"succeeded": 7}, {"done": 7}, ""),  # fewer than two for each of four slots
        ({"succeeded": 8}, {"done": 8, "active_seconds": 0.9}, ""),
        ({"succeeded": 8}, {"done": 8}, "23 s to go"),
        ({"succeeded": 95}, {"done": 95}, "1.2 s to go"),
        ({"succeeded": 96}, {"done": 96}, "waiting for 4 mini-batches"),
        ({"succeeded": 98, "failed": 1}, {"done": 99}, "waiting for 1 mini-batch"),
        ({"succeeded": 100}, {"done": 100}, ""),
        ({"succeeded": 50, "is_growing": True}, {"done": 50}, ""),
        ({"succeeded": 50}, {"done": 50, "held": Breach("error_threshold", 4, 20)}, "on hold: error_threshold 4 is near"),
        ({"succeeded": 50, "all_scheduled": True}, {"done": 50, "held": Breach("error_threshold", 4, 20)}, "12 s to go"),
        ({"succeeded": 50}, {"done": 50, "held": Breach("error_threshold", 4, 20), "is_paused": True}, "paused"),
    ],
)
def test_time_to_go_is_given_only_when_it_is_meaningful(tally, figures, expected):
    """Not after the first few, nor while scheduling is on hold, nor while the last mini-batches run."""
    figures = {"elapsed": 10.0, "active_seconds": 10.0, "slots": 4, **figures}
    assert str(ProgressSnapshot(tally=Tally(planned=100, **tally), **figures).forecast_at(4.0)) == expected


def test_active_time_starts_at_first_attempt_and_excludes_pauses():
    """Earlier executions, the start of processes and pauses do not affect the rate."""
    now = [100.0]
    tracker = ProgressTracker(lambda: now[0])
    tracker.handle(RunStarted(RunDirectory(Path("run")), Tally(planned=60, succeeded=20)))
    tracker.handle(NodeJoined(NodeFacts(node="node-0", host="h", pid=1, cores=2, slots=2)))
    now[0] = 110.0
    tracker.handle(ReceiptsCommitted([failed(20), failed(21)]))  # each took 0.1 s
    tracker.handle(ReceiptsCommitted([failed(22)]))
    now[0] = 112.8
    tracker.handle(RunPaused())
    now[0] = 150.0
    assert str(tracker.snapshot(Tally(planned=60, succeeded=26)).forecast) == "paused"
    tracker.handle(RunContinued())
    now[0] = 151.0
    snapshot = tracker.snapshot(Tally(planned=60, succeeded=28))
    assert (snapshot.elapsed, snapshot.done, snapshot.slots) == (51.0, 8, 2)
    assert snapshot.active_seconds == pytest.approx(4.0)
    assert str(snapshot.forecast) == "16 s to go"
    tracker.handle(NodeLost("node-0"))
    assert tracker.snapshot(Tally(planned=60, succeeded=28)).slots == 0


def test_hold_and_its_end_are_logged(log, caplog):
    """The message names the limit that is near."""
    log.handle(SchedulingPaused(Breach("error_threshold", 3, 5)))
    log.handle(SchedulingResumed())
    assert "error_threshold = 3 would be exceeded" in caplog.text
    assert "resumed scheduling" in caplog.text


def test_leases_grow_to_two_seconds_and_shrink_near_the_end():
    """One at the start, eightfold growth, a fair share near the end, never more than fits or remains."""
    sizer = LeaseSizer(max_size=3000)
    assert sizer.size(10_000, 4) == 1
    sizer.record(1, 0.001)
    assert sizer.size(10_000, 4) == 8
    sizer.record(8, 0.008)
    assert sizer.size(10_000, 4) == 64
    for _ in range(10):
        sizer.record(500, 0.5)
    assert sizer.size(1_000_000, 4) == 2_000
    assert sizer.size(1_200, 4) == 100
    assert sizer.size(3, 4) == 1
    fast = LeaseSizer(max_size=3000)
    for _ in range(10):
        fast.record(3000, 0.01)
    assert fast.size(10_000_000, 2) == 3000
    assert fast.size(10_000, 2) == 3000  # shorter than a lease should be, but both slots get some
    assert fast.size(1_000, 2) == 500
    slow = LeaseSizer(max_size=3000)
    slow.record(1, 100.0)
    assert slow.size(1_000, 2) == 1


@pytest.mark.parametrize(
    ("dashboard", "end"), [("", ""), ("http://127.0.0.1:1/status", "; Dask dashboard http://127.0.0.1:1/status")]
)
def test_first_log_line_links_a_dashboard_only_if_served(tmp_path, caplog, dashboard, end):
    """A line that ends in an empty link looks broken."""
    run = RunDirectory(tmp_path / "run")
    run.make()
    Ledger.create(run.ledger, [2, 2]).close()
    with caplog.at_level(logging.INFO):
        emit = emit_to(listeners_of("test", logging.getLogger("test"), in_prefect=False))
        emit(RunStarted(run, Tally(planned=2, items=4), dashboard))
    assert caplog.messages[0] == f"test: 2 mini-batches, 4 items; run directory {run.path}{end}"
