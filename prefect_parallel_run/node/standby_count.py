"""Decides when a node needs a standby child. Pure: no clock, no processes."""

from __future__ import annotations

_SOON = 0.5  #: share of run_invocation_timeout; a mini-batch that has used this much may well time out


class StandbyNeed:
    """Decides from the fate of a node's children whether a standby child is needed.

    None is needed at first: most runs never lose a child, and a standby child costs the memory of the script's imports. So
    the first child that crashes is replaced by one that is started only then; for a timeout, the standby child is ready.

    >>> need = StandbyNeed(run_invocation_timeout=60.0)
    >>> need.mini_batch_has_run(29.0)
    >>> need.is_needed
    False
    >>> need.mini_batch_has_run(30.0)
    >>> need.is_needed
    True

    Args:
        run_invocation_timeout: s.
    """

    def __init__(self, run_invocation_timeout: float) -> None:
        self._soon = _SOON * run_invocation_timeout
        self._is_needed = self._has_failed = False

    @property
    def is_needed(self) -> bool:
        """True when there should be a standby child; each one that is used is then replaced by the next."""
        return self._is_needed and not self._has_failed

    def child_ended(self) -> None:
        """Record that a child has died or was killed: others may follow."""
        self._is_needed, self._has_failed = True, False

    def mini_batch_has_run(self, seconds: float) -> None:
        """Record how long a mini-batch has been running."""
        self._is_needed = self._is_needed or seconds >= self._soon

    def standby_failed(self) -> None:
        """Record that a standby child failed to start or exited: none is needed until another child has died.

        When memory is short, or the script imports something exclusive, every further one would fail too.
        """
        self._has_failed = True
