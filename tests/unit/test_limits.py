"""Failure limits at their edges."""

from dataclasses import replace

import pytest

from prefect_parallel_run.models import Tally
from prefect_parallel_run.runs.limits import FailureLimits


def test_the_eleventh_failed_item_breaches_a_threshold_of_ten():
    """Strictly more than the limit aborts; the limit itself is forgiven."""
    limits = FailureLimits(error_threshold=10)
    assert limits.first_breach(Tally(planned=5, items=50, failed=1, failed_items=10)) is None
    assert limits.first_breach(Tally(planned=5, items=50, failed=2, failed_items=11)) == ("error_threshold", 10, 11)


@pytest.mark.parametrize("field", ["error_threshold", "allowed_failed_count", "allowed_failed_percent"])
def test_none_forgives_everything(field):
    """The user's -1 and 100 % arrive here as None."""
    limits = FailureLimits(**{field: None})
    everything = Tally(planned=3, items=9, failed=3, failed_items=9, all_scheduled=True)
    assert list(limits.breaches(everything)) == []


@pytest.mark.parametrize("field", ["error_threshold", "allowed_failed_count", "allowed_failed_percent"])
def test_zero_forgives_nothing(field):
    """A limit of 0 is a limit, not the absence of one."""
    limits = FailureLimits(**{field: 0})
    assert limits.first_breach(Tally(planned=3, items=9, all_scheduled=True)) is None
    assert limits.first_breach(Tally(planned=3, items=9, failed=1, failed_items=3, all_scheduled=True)).limit == field


def test_percent_limit_waits_until_every_mini_batch_is_scheduled():
    """Two failures of ten abort a 10 % run, but only once nothing is left to schedule."""
    limits = FailureLimits(allowed_failed_percent=10)
    assert list(limits.breaches(Tally(planned=10, failed=2))) == []
    assert [b.actual for b in limits.breaches(Tally(planned=10, failed=2, all_scheduled=True))] == [20.0]


def test_mini_batches_between_two_tries_count_only_when_asked():
    """They are a reason to wait, not yet one to abort."""
    limits = FailureLimits(allowed_failed_count=1)
    tally = Tally(planned=10, failed=1, waiting=1)
    assert limits.first_breach(tally) is None
    assert limits.near_breach(tally, isolates=False) == ("allowed_failed_count", 1, 2)


def test_a_mini_batch_that_is_looked_through_counts_as_one_item():
    """Two are two, or what is left of them; without isolation all of their items count."""
    limits = FailureLimits(error_threshold=2)
    tally = Tally(planned=10, items=100, failed_items=1, waiting=2, waiting_items=20)
    assert limits.near_breach(tally, isolates=False) == ("error_threshold", 2, 21)
    assert limits.near_breach(tally, isolates=True) == ("error_threshold", 2, 3)
    assert limits.near_breach(replace(tally, waiting_items=1), isolates=True) is None


def test_all_exceeded_limits_are_named_in_field_order():
    """The first of them goes into the error."""
    limits = FailureLimits(error_threshold=0, allowed_failed_count=0, allowed_failed_percent=1)
    tally = Tally(planned=10, items=10, failed=1, failed_items=1, all_scheduled=True)
    assert [b.limit for b in limits.breaches(tally)] == [
        "error_threshold",
        "allowed_failed_count",
        "allowed_failed_percent",
    ]
