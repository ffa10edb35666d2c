"""When mini-batches may start: so many per minute over all processes, and a failed one after its delay. Pure: no clock.

A lease of a paced run goes to an idle process and has one mini-batch, so that it starts when it is handed out: in a lease of
several, the later ones would start in a burst after the first one has been slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from zlib import crc32

_LATE = 0.1  #: s by which the dispatcher may be late without a lower rate
_LONGEST_DELAY = 3_600.0  #: s: neither retry_backoff_factor nor retry_jitter_factor leads beyond
_SHORTEST_DELAY = 1e-9  #: s: shorter delays count as this one in the number of steps to the longest, so that powers stay finite


class Pace:
    """At most *per_minute* mini-batches start per minute; None or -1: no limit.

    In any period of T seconds, at most rate * (T + 0.1) + 1 mini-batches start, and one more after a change of the rate.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._last: float | None = None  # when the last mini-batch should have started (monotonic clock, s)
        self.change(per_minute, -math.inf)

    def change(self, per_minute: float | None, now: float) -> None:
        """Set another rate at *now*."""
        self._since = now
        self._interval = 0.0 if per_minute is None or per_minute < 0 else 60 / per_minute  # s between two starts

    @property
    def per_second(self) -> float:
        """Return the rate; infinite without a limit."""
        return 1 / self._interval if self.is_limited else math.inf

    @property
    def is_limited(self) -> bool:
        """True when there is a limit."""
        return self._interval > 0

    @property
    def _due(self) -> float:
        return -math.inf if self._last is None else self._last + self._interval

    def permits(self, now: float) -> bool:
        """Return whether a mini-batch may start at *now*."""
        return now >= self._due

    def take(self, now: float) -> None:
        """Record that a mini-batch starts at *now*."""
        # After a pause, at a lower rate, or while all processes were busy, they do not catch up: that would be a burst.
        self._last = now if self._last is None else max(self._due, now - _LATE, self._since)

    def next_due(self, now: float) -> float | None:
        """Return when a mini-batch may start; None if one may start at *now*: it waits for a process."""
        return None if self.permits(now) else self._due


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDelay:
    """The delay between two attempts at a mini-batch."""

    seconds: float = 0.0  #: before the second attempt
    backoff: float = 1.0  #: factor from one delay to the next
    jitter: float = 0.0  #: a delay becomes up to 1 + jitter times as long, but not longer than the longest

    def before(self, work: object, attempt: int, requested: float | None = None) -> float:
        """Return the delay before *attempt* (from 2) in s; *requested* by the script replaces the configured one.

        The jitter depends on *work* (a mini-batch, or a piece of one) and *attempt* alone, so that equal events have equal
        results. At the longest delay, it varies below it: mini-batches that fail together are still not retried together.
        """
        first, exponent = (self.seconds, float(attempt - 2)) if requested is None else (requested, 0.0)
        most = max(first, _LONGEST_DELAY)
        if self.backoff > 1:
            exponent = min(exponent, math.log(most / max(first, _SHORTEST_DELAY)) / math.log(self.backoff))
        longest: float = min(first * self.backoff**exponent * (1 + self.jitter), most)
        shortest = max(first, longest / (1 + self.jitter))
        return shortest + (longest - shortest) * crc32(f"{work}.{attempt}".encode()) / (1 << 32)
