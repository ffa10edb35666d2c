"""When mini-batches may start: so many per minute over all processes, and a failed one after its delay. Pure: no clock.

A lease of a paced run goes to an idle process and has at most as many mini-batches as may start now, so that it starts when it
is handed out. Many per second are handed out together, twenty times a second, since every lease costs messages.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from zlib import crc32

_TOGETHER = 0.05  #: s of mini-batches that are handed out together
_LATE = 0.1  #: s by which the dispatcher may be late without a lower rate
_LONGEST_DELAY = 3_600.0  #: s: neither retry_backoff_factor nor retry_jitter_factor leads beyond
_SHORTEST_DELAY = 1e-9  #: s: shorter delays count as this one in the number of steps to the longest, so that powers stay finite
_ROUNDING = 1e-6  #: mini-batches by which rounding may reduce a permit


class Pace:
    """At most *per_minute* mini-batches start per minute; None or -1: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._per_second = math.inf
        self._since = -math.inf  # mini-batches that could have started since then (monotonic clock, s) may start
        self.change(per_minute)

    def change(self, per_minute: float | None) -> None:
        """Set another rate."""
        self._per_second = math.inf if per_minute is None or per_minute < 0 else per_minute / 60

    @property
    def per_second(self) -> float:
        """Return the rate; infinite without a limit."""
        return self._per_second

    @property
    def is_limited(self) -> bool:
        """True when there is a limit."""
        return math.isfinite(self._per_second)

    @property
    def _together(self) -> int:
        return max(1, int(self._per_second * _TOGETHER))

    def permits(self, now: float) -> int:
        """Return how many mini-batches may start at *now*."""
        if not self.is_limited:
            return sys.maxsize
        # After a pause, or while all processes were busy, they do not catch up: that would be a burst.
        self._since = max(self._since, now - self._together / self._per_second - _LATE)
        permits = int((now - self._since) * self._per_second + _ROUNDING)
        return permits if permits >= self._together else 0

    def take(self, count: int) -> None:
        """Record that *count* mini-batches start."""
        if self.is_limited:
            self._since += count / self._per_second

    def next_due(self, now: float) -> float | None:
        """Return when further mini-batches may start; None if some may start at *now*: they wait for a process."""
        return None if self.permits(now) else self._since + self._together / self._per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDelay:
    """The delay between two attempts at a mini-batch."""

    seconds: float = 0.0  #: before the second attempt
    backoff: float = 1.0  #: factor from one delay to the next
    jitter: float = 0.0  #: a delay becomes up to 1 + jitter times as long, but not longer than the longest

    def before(self, mini_batch: int, attempt: int, requested: float | None = None) -> float:
        """Return the delay before *attempt* (from 2) in s; *requested* by the script replaces the configured one.

        The jitter depends on mini-batch and attempt alone, so that equal events have equal results. At the longest delay, it
        varies below it: mini-batches that fail together are still not retried together.
        """
        first, exponent = (self.seconds, float(attempt - 2)) if requested is None else (requested, 0.0)
        most = max(first, _LONGEST_DELAY)
        if self.backoff > 1:
            exponent = min(exponent, math.log(most / max(first, _SHORTEST_DELAY)) / math.log(self.backoff))
        longest: float = min(first * self.backoff**exponent * (1 + self.jitter), most)
        shortest = max(first, longest / (1 + self.jitter))
        return shortest + (longest - shortest) * crc32(f"{mini_batch}.{attempt}".encode()) / (1 << 32)
