"""When the next sample is due, so that a file of samples stays short however long a run takes. Pure: no clock of its own."""

from __future__ import annotations

_LINES = 600  #: after so many samples at one interval the next ones lie twice as far apart


class BackoffTimer:
    """Says when a sample is due: every second at first, then every two, four, … A week is some 6,000 samples.

    >>> pace = BackoffTimer(0.0)
    >>> [pace.is_due(now) for now in (0.0, 0.5, 1.0, 1.5)]
    [True, False, True, False]

    Args:
        now: Monotonic clock, s.
        interval: Of the first samples, s.
    """

    def __init__(self, now: float, interval: float = 1.0) -> None:
        self._due, self._interval, self._taken = now, interval, 0

    def is_due(self, now: float) -> bool:
        """True when a sample should be taken *now* (monotonic clock, s); it is then counted as taken."""
        if now < self._due:
            return False
        self._taken += 1
        if self._taken % _LINES == 0:
            self._interval *= 2
        self._due += self._interval
        if self._due <= now:  # somebody has kept us waiting: no two at once
            self._due = now + self._interval
        return True
