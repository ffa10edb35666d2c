"""Limits how many log messages of scripts are forwarded. Pure: no clock."""

from __future__ import annotations

_RESERVE = 0.25  #: share of each limit that is reserved for urgent messages


class RateLimiter:
    """Limits messages per second and in total; a quarter of each limit is reserved for urgent messages.

    >>> limiter = RateLimiter(per_second=4.0, total=8)
    >>> [limiter.admits(0.0, is_urgent=False) for _ in range(4)], limiter.admits(0.0, is_urgent=True)
    ([True, True, True, False], True)
    >>> limiter.admits(1.0, is_urgent=False)
    True

    Args:
        per_second: Messages per second, and in one burst. None: unlimited.
        total: Messages in total.
    """

    def __init__(self, per_second: float | None, total: int) -> None:
        self._per_second, self._total = per_second or 0.0, total
        self._available, self._remaining = self._per_second, total
        self._is_timed = per_second is not None
        self._updated_at: float | None = None

    def admits(self, now: float, *, is_urgent: bool) -> bool:
        """Return whether a message may pass at *now* (monotonic clock, s), and count it if so."""
        if self._updated_at is not None:
            self._available = min(self._per_second, self._available + (now - self._updated_at) * self._per_second)
        self._updated_at = now
        reserved = 0.0 if is_urgent else _RESERVE
        is_early = self._is_timed and self._available < 1.0 + reserved * self._per_second
        if is_early or self._remaining < 1.0 + reserved * self._total:
            return False
        self._available -= 1.0
        self._remaining -= 1
        return True
