"""Failure limits: how much failure a run tolerates. Pure: no clock, no files, no cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect_parallel_run.models import Breach, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """What a run tolerates over its whole input; None means no limit."""

    error_threshold: int | None = None  #: failed items
    allowed_failed_count: int | None = None  #: failed mini-batches
    allowed_failed_percent: float | None = None  #: failed mini-batches, 0 to 100 percent of those planned

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> FailureLimits:
        """Return the limits in a configuration, where -1, 100 and None mean no limit.

        >>> FailureLimits.of({"error_threshold": 4, "allowed_failed_count": -1})
        FailureLimits(error_threshold=4, allowed_failed_count=None, allowed_failed_percent=None)
        """
        no_limit = {"error_threshold": -1, "allowed_failed_count": -1, "allowed_failed_percent": 100}
        return cls(**{name: None if config.get(name) == limit else config.get(name) for name, limit in no_limit.items()})

    def breaches(self, tally: Tally) -> Iterator[Breach]:
        """Yield every limit that *tally* exceeds, in field order."""
        mini_batches, items = tally.failed, tally.failed_items
        measures: list[tuple[str, float | None, float]] = [
            ("error_threshold", self.error_threshold, items),
            ("allowed_failed_count", self.allowed_failed_count, mini_batches),
        ]
        if tally.all_scheduled:  # before that, the first failure of a long run could be 100 percent
            percent = 100 * mini_batches / tally.planned if tally.planned else 0.0
            measures.append(("allowed_failed_percent", self.allowed_failed_percent, percent))
        for limit, allowed, actual in measures:
            if allowed is not None and actual > allowed:
                yield Breach(limit, allowed, actual)

    def first_breach(self, tally: Tally) -> Breach | None:
        """Return the first limit that *tally* exceeds, or None."""
        return next(self.breaches(tally), None)

    def near_breach(self, tally: Tally, *, isolates: bool) -> Breach | None:
        """Return the first limit that would be exceeded if mini-batches that wait for a retry failed, or None.

        The run does not abort yet, since their next attempt may succeed: it waits for them. With bisection, each counts as one
        failed item, because bisection rarely finds that all items fail.
        """
        items = min(tally.waiting_items, tally.waiting) if isolates else tally.waiting_items
        failed, failed_items = tally.failed + tally.waiting, tally.failed_items + items
        return self.first_breach(replace(tally, failed=failed, failed_items=failed_items))
