"""Failure limits at their edges."""

from dataclasses import replace

import pytest

from prefect_parallel_run.models import FailureLimits, Tally


def test_the_eleventh_failed_item_breaches_a_threshold_of_ten():
    """Only more failures than the limit abort the run."""
    limits = FailureLimits(error_threshold=10)
    assert limits.first_breach(Tally(planned=5, items=50, failed=1, failed_items=10)) is None
    assert limits.first_breach(Tally(planned=5, items=50, failed=2, failed_items=11)) == ("error_threshold", 10, 11)


@pytest.mark.parametrize("field", ["error_threshold", "allowed_failed_count", "allowed_failed_percent"])
def test_none_means_no_limit(field):
    """The user's -1 and 100 percent arrive here as None."""
    limits = FailureLimits(**{field: None})
    everything = Tally(planned=3, items=9, failed=3, failed_items=9, all_scheduled=True)
    assert list(limits.breaches(everything)) == []


@pytest.mark.parametrize("field", ["error_threshold", "allowed_failed_count", "allowed_failed_percent"])
def test_zero_tolerates_no_failure(field):
    """A limit of 0 differs from no limit."""
    limits = FailureLimits(**{field: 0})
    assert limits.first_breach(Tally(planned=3, items=9, all_scheduled=True)) is None
    assert limits.first_breach(Tally(planned=3, items=9, failed=1, failed_items=3, all_scheduled=True)).limit == field


def test_percent_limit_waits_until_every_mini_batch_is_scheduled():
    """Two failures of ten abort a run with 10 percent, but only once everything is scheduled."""
    limits = FailureLimits(allowed_failed_percent=10)
    assert list(limits.breaches(Tally(planned=10, failed=2))) == []
    assert [b.actual for b in limits.breaches(Tally(planned=10, failed=2, all_scheduled=True))] == [20.0]


def test_waiting_mini_batches_count_only_for_a_near_breach():
    """The run waits for them and does not abort yet."""
    limits = FailureLimits(allowed_failed_count=1)
    tally = Tally(planned=10, failed=1, waiting=1)
    assert limits.first_breach(tally) is None
    assert limits.near_breach(tally, isolates=False) == ("allowed_failed_count", 1, 2)


def test_a_bisected_mini_batch_counts_as_one_item():
    """Two count as two, or as their remaining items; without bisection all of their items count."""
    limits = FailureLimits(error_threshold=2)
    tally = Tally(planned=10, items=100, failed_items=1, waiting=2, waiting_items=20)
    assert limits.near_breach(tally, isolates=False) == ("error_threshold", 2, 21)
    assert limits.near_breach(tally, isolates=True) == ("error_threshold", 2, 3)
    assert limits.near_breach(replace(tally, waiting_items=1), isolates=True) is None


def test_all_exceeded_limits_are_named_in_field_order():
    """The error contains the first of them."""
    limits = FailureLimits(error_threshold=0, allowed_failed_count=0, allowed_failed_percent=1)
    tally = Tally(planned=10, items=10, failed=1, failed_items=1, all_scheduled=True)
    assert [b.limit for b in limits.breaches(tally)] == [
        "error_threshold",
        "allowed_failed_count",
        "allowed_failed_percent",
    ]
