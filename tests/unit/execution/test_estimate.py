"""The estimate of a trial, and the choice of mini-batches; without processes."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.execution.estimate import estimate, trial_warnings
from prefect_parallel_run.execution.trial import select
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.planning.plan import PlanSummary

CONFIG = ParallelRunConfig.model_construct(
    node_count=2, mini_batches_per_minute=None, run_invocation_timeout=60.0, error_threshold=3
)
#: Clocks count nanoseconds: smaller times would only show how floats near zero are rounded.
SECONDS = st.integers(0, 100000 * 10**9).map(lambda nanoseconds: nanoseconds / 1e9)
COUNTS = st.integers(1, 10**6)


def receipt(number, seconds, items=10, rows=None):
    rows = items if rows is None else rows
    fields = {"part": "", "offset": 0, "header": 0, "length": 0, "crc": 0, "started": 0.0, "seconds": seconds}
    return Receipt(number, 1, Outcome.SUCCEEDED, items, min(rows, items), items - min(rows, items), rows, **fields)


def plan(mini_batches, items):
    return PlanSummary(mini_batches, items, 0, "", "file", "")


def test_the_estimate_takes_the_median_per_item():
    """The first mini-batch of a process is often slow."""
    receipts = [receipt(0, 90.0), receipt(1, 10.0), receipt(2, 20.0)]
    figures = estimate(plan(9, 90), receipts, 5.0, 1 << 20, CONFIG, slots=2)
    assert figures.processes == 4
    assert figures.seconds_per_item == (1.0, 2.0, 9.0)
    assert figures.process_hours == pytest.approx((4 * 5 + 90 * 2) / 3600)
    assert figures.wall_seconds == 5 + 3 * 20  # nine mini-batches of 20 s on four processes


def test_pace_lengthens_the_estimate():
    """As it lengthens the run."""
    paced = CONFIG.model_copy(update={"mini_batches_per_minute": 6})
    figures = estimate(plan(60, 60), [receipt(0, 0.1, items=1)], 1.0, 0, paced, slots=2)
    assert figures.wall_seconds == 1 + 600


@pytest.mark.parametrize("mini_batches", [0, 10])
def test_without_a_success_there_is_no_estimate(mini_batches):
    """The time of a failure says nothing about the others."""
    figures = estimate(plan(mini_batches, mini_batches), [], 1.0, 0, CONFIG, slots=1)
    assert (figures.seconds_per_item, figures.process_hours, figures.wall_seconds) == (None, None, None)


@given(st.lists(st.tuples(SECONDS, st.integers(1, 1000)), min_size=1, max_size=5), COUNTS, COUNTS, SECONDS, st.integers(1, 64))
def test_estimates_are_consistent(measured, mini_batches, per_batch, start, slots):
    """All processes together are no longer busy than the wall time; more processes never take longer."""
    receipts = [receipt(number, seconds, items) for number, (seconds, items) in enumerate(measured)]
    whole = plan(mini_batches, mini_batches * per_batch)
    figures, more = (estimate(whole, receipts, start, 0, CONFIG, number) for number in (slots, slots + 1))
    least, median, most = figures.seconds_per_item
    assert least <= median <= most
    assert 1 <= figures.processes <= mini_batches
    assert figures.process_hours * 3600 <= figures.wall_seconds * figures.processes * (1 + 1e-9)
    assert start <= figures.wall_seconds
    assert more.wall_seconds <= figures.wall_seconds * (1 + 1e-9)
    if figures.processes == 1:
        assert figures.wall_seconds == pytest.approx(figures.process_hours * 3600)


@given(COUNTS, st.integers(1, 100), st.booleans())
def test_selected_mini_batches_exist_and_differ(planned, number, sample):
    """They are in the order of the plan, and as many as were asked for if the plan has them."""
    chosen = select(number, None, sample, planned)
    assert len(chosen) == min(number, planned)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(planned)) if planned < 1000 else 0 <= chosen[0] <= chosen[-1] < planned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, False), "mini_batches: expected a positive integer, got 0"),
        ((True, None, False), "mini_batches: expected a positive integer, got True"),
        ((None, 1, True), "got mini_batch=1, mini_batches=None, sample=True"),
        ((3, 1, False), "got mini_batch=1, mini_batches=3, sample=False"),
        ((3, 1, True), "set either mini_batch, or mini_batches and sample, got mini_batch=1, mini_batches=3, sample=True"),
        ((None, -1, False), "mini_batch: expected an integer from 0, got"),
        ((None, "1", False), "mini_batch: expected an integer from 0, got"),
    ],
    ids=["zero", "bool", "sample", "number", "all", "negative", "string"],
)
def test_an_invalid_selection_is_refused_before_planning(arguments, message):
    """For a plan of any size."""
    with pytest.raises(ValueError, match=message):
        select(*arguments, sys.maxsize)


def test_a_missing_mini_batch_is_refused():
    """With the size of the plan."""
    with pytest.raises(ValueError, match="expected less than 10, the number of planned mini-batches, got 10"):
        select(None, 10, False, 10)


@pytest.mark.parametrize(
    ("receipts", "memory", "warning"),
    [
        ([receipt(0, 31.0)], 1 << 40, "slowest mini-batch took 31 s, over half of run_invocation_timeout = 60 s"),
        ([receipt(0, 1.0)], 1 << 30, "4 processes of 512.0 MB exceed this machine's memory of 1.0 GB"),
        (
            [receipt(0, 1.0, rows=8), receipt(1, 1.0, rows=12)],
            1 << 40,
            "2 items without a row would count as failed (error_threshold = 3)",
        ),
        ([receipt(0, 29.0)], None, ""),
    ],
    ids=["timeout", "memory", "rows", "nothing"],
)
def test_a_trial_warns(receipts, memory, warning):
    """If a run would probably fail, and only then."""
    figures = estimate(plan(10, 100), receipts, 0.0, 512 << 20, CONFIG, slots=2)
    warnings = list(trial_warnings(figures, receipts, CONFIG, memory))
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)
