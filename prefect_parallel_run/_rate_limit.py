"""How much of what scripts say is told. Pure: no clock of its own."""

from __future__ import annotations

_RESERVE = 0.25  #: share of every allowance that only what is urgent may use


class RateLimiter:
    """Lets so many messages through per second, and so many in all; a quarter of both is for what is urgent.

    >>> allowance = RateLimiter(per_second=4.0, in_all=8)
    >>> [allowance.admits(0.0, is_urgent=False) for _ in range(4)], allowance.admits(0.0, is_urgent=True)
    ([True, True, True, False], True)
    >>> allowance.admits(1.0, is_urgent=False)
    True

    Args:
        per_second: Messages; as many may come at once. None: that does not matter.
        in_all: Messages.
    """

    def __init__(self, per_second: float | None, in_all: int) -> None:
        self._per_second, self._in_all = per_second or 0.0, in_all
        self._left_now, self._left_in_all = self._per_second, in_all
        self._is_timed = per_second is not None
        self._at: float | None = None

    def admits(self, now: float, *, is_urgent: bool) -> bool:
        """True when one more message may be told *now* (monotonic clock, s); it is then counted as told."""
        if self._at is not None:
            self._left_now = min(self._per_second, self._left_now + (now - self._at) * self._per_second)
        self._at = now
        reserved = 0.0 if is_urgent else _RESERVE
        is_early = self._is_timed and self._left_now < 1.0 + reserved * self._per_second
        if is_early or self._left_in_all < 1.0 + reserved * self._in_all:
            return False
        self._left_now -= 1.0
        self._left_in_all -= 1
        return True
