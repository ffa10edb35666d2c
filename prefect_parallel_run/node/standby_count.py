"""When a node should have a spare, a child that is started ahead of the one it replaces. Pure: no clock, no processes."""

from __future__ import annotations

_SOON = 0.5  #: share of run_invocation_timeout; a mini-batch that has used so much of it may well use it all


class SpareNeed:
    """Follows what befalls a node's children and says whether one should stand by.

    At first none should: most runs never lose a child, and a spare costs the memory of the script's imports. So the first
    child that crashes is replaced by one that is started only then; for a timeout the spare is there in time.

    >>> need = SpareNeed(run_invocation_timeout=60.0)
    >>> need.mini_batch_has_run(29.0)
    >>> need.is_there
    False
    >>> need.mini_batch_has_run(30.0)
    >>> need.is_there
    True

    Args:
        run_invocation_timeout: s.
    """

    def __init__(self, run_invocation_timeout: float) -> None:
        self._soon = _SOON * run_invocation_timeout
        self._is_there = self._has_failed = False

    @property
    def is_there(self) -> bool:
        """True when a spare should stand by; from then on each that is taken is followed by the next."""
        return self._is_there and not self._has_failed

    def child_ended(self) -> None:
        """Note that a child has died or was killed: others may follow."""
        self._is_there, self._has_failed = True, False

    def mini_batch_has_run(self, seconds: float) -> None:
        """Note how long a mini-batch has been running."""
        self._is_there = self._is_there or seconds >= self._soon

    def spare_failed(self) -> None:
        """Note that a spare could not start, or has ended: there is no other before a child has ended again.

        Where memory is short, or what the script imports cannot be had twice, one after the other would fail.
        """
        self._has_failed = True
