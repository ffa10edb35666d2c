"""When a node should have a spare."""

import pytest

from prefect_parallel_run.node.standby_count import SpareNeed


def test_a_run_that_loses_no_child_has_no_spare():
    """It costs the memory of the script's imports, for nothing."""
    need = SpareNeed(60.0)
    for _ in range(3):
        need.mini_batch_has_run(29.9)
    assert not need.is_there


@pytest.mark.parametrize("timeout", [0.1, 60.0, 1e6])
def test_half_of_the_time_limit_calls_for_a_spare(timeout):
    """So that it is ready when the other half is used up as well; what follows may take as long."""
    need = SpareNeed(timeout)
    need.mini_batch_has_run(timeout / 2)
    assert need.is_there
    need.mini_batch_has_run(0.0)
    assert need.is_there


def test_a_child_that_ended_calls_for_a_spare():
    """The first comes too late for the first death; one is kept from then on."""
    need = SpareNeed(60.0)
    need.child_ended()
    assert need.is_there
    need.child_ended()
    assert need.is_there


def test_a_spare_that_failed_has_no_successor_until_a_child_ends():
    """However long mini-batches take: one after the other would fail."""
    need = SpareNeed(60.0)
    need.mini_batch_has_run(30.0)
    need.spare_failed()
    assert not need.is_there
    need.mini_batch_has_run(59.0)
    assert not need.is_there
    need.child_ended()
    assert need.is_there
