"""When a node should have a spare."""

import pytest

from prefect_parallel_run.node.child_startup import StandbyNeed


def test_no_standby_child_without_a_lost_child():
    """It costs the memory of the script's imports."""
    need = StandbyNeed(60.0)
    for _ in range(3):
        need.mini_batch_has_run(29.9)
    assert not need.is_needed


@pytest.mark.parametrize("timeout", [0.1, 60.0, 1e6])
def test_a_standby_child_is_needed_at_half_the_timeout(timeout):
    """So that it is ready when the mini-batch times out."""
    need = StandbyNeed(timeout)
    need.mini_batch_has_run(timeout / 2)
    assert need.is_needed
    need.mini_batch_has_run(0.0)
    assert need.is_needed


def test_a_standby_child_is_needed_after_a_death():
    """The first comes too late for the first death; from then on there is always one."""
    need = StandbyNeed(60.0)
    need.child_ended()
    assert need.is_needed
    need.child_ended()
    assert need.is_needed


def test_a_failed_standby_child_waits_for_the_next_death():
    """Otherwise one after the other would fail."""
    need = StandbyNeed(60.0)
    need.mini_batch_has_run(30.0)
    need.standby_failed()
    assert not need.is_needed
    need.mini_batch_has_run(59.0)
    assert not need.is_needed
    need.child_ended()
    assert need.is_needed
