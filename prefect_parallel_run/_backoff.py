"""Spaces samples ever further apart, so that a file of samples stays short for any duration. Pure: no clock."""

from __future__ import annotations

_SAMPLES_PER_INTERVAL = 600  #: samples after which the interval doubles


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
