"""A file lock has one holder, or several that share it."""

import os

import pytest

from prefect_parallel_run._locks import locked, open_lock, try_lock


@pytest.mark.parametrize(
    ("first", "second", "expected"), [(False, False, False), (False, True, False), (True, False, False), (True, True, True)]
)
def test_a_lock_is_exclusive_unless_both_share_it(tmp_path, first, second, expected):
    """Until its holder closes it."""
    holder, other = open_lock(tmp_path / "lock"), open_lock(tmp_path / "lock")
    assert try_lock(holder, shared=first)
    assert try_lock(other, shared=second) == expected
    os.close(holder)
    assert try_lock(other)
    os.close(other)


def test_a_held_lock_is_tried_again_after_each_pause(tmp_path):
    """The block starts once the lock is free."""
    holder, pauses = open_lock(tmp_path / "lock"), []
    assert try_lock(holder)

    def pause():
        pauses.append(1)
        if len(pauses) == 2:
            os.close(holder)

    with locked(tmp_path / "lock", pause):
        assert len(pauses) == 2


def test_a_pause_can_give_up(tmp_path):
    """Its error reaches the caller, and the holder keeps the lock."""

    def refuse():
        raise LookupError

    with locked(tmp_path / "lock") as holder:
        with pytest.raises(LookupError), locked(tmp_path / "lock", refuse):
            pytest.fail("the lock was free")
        assert try_lock(holder)
