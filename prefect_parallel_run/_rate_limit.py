"""Limits how many log messages are forwarded, and how many samples a file gets. Pure: no clock."""

from __future__ import annotations

_RESERVE = 0.25  #: share of each limit that is reserved for urgent messages
_SAMPLES_PER_INTERVAL = 600  #: samples after which the interval doubles


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


class BackoffTimer:
    """Determines when a sample is due: every second at first, then every two, four, … seconds. A week has some 6,000 samples.

    >>> timer = BackoffTimer(0.0)
    >>> [timer.is_due(now) for now in (0.0, 0.5, 1.0, 1.5)]
    [True, False, True, False]

    Args:
        now: Monotonic clock, s.
        interval: First interval, s.
    """

    def __init__(self, now: float, interval: float = 1.0) -> None:
        self._due, self._interval, self._count = now, interval, 0

    def is_due(self, now: float) -> bool:
        """Return whether a sample is due at *now* (monotonic clock, s), and count it if so."""
        if now < self._due:
            return False
        self._count += 1
        if self._count % _SAMPLES_PER_INTERVAL == 0:
            self._interval *= 2
        self._due += self._interval
        if self._due <= now:  # the caller was delayed: skip missed samples
            self._due = now + self._interval
        return True
