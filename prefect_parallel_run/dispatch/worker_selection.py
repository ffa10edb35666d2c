"""Which of the workers of a cluster a run uses, when there are more than it wants. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def choose(workers: Mapping[str, Mapping[str, Any]], used: Iterable[str], count: int) -> list[str]:
    """Return the addresses of up to *count* workers, spread over hosts, the idlest first.

    Args:
        workers: What the scheduler says of those that may be chosen, by address.
        used: Hosts of workers that are in use already, one entry for each.
        count: At most; 0 or less for none.

    >>> idle, busy = {"executing": 0}, {"executing": 3}
    >>> facts = [("a", "h1", busy), ("b", "h1", idle), ("c", "h2", busy)]
    >>> workers = {address: {"host": host, "metrics": metrics} for address, host, metrics in facts}
    >>> choose(workers, ["h3"], 2)
    ['b', 'c']
    >>> choose(workers, ["h2"], 1)
    ['b']
    """
    on_host = Counter(used)
    left = dict(workers)
    chosen: list[str] = []
    while left and len(chosen) < count:
        best = min(left, key=lambda address: (on_host[_host(left[address])], _busy(left[address]), address))
        on_host[_host(left.pop(best))] += 1
        chosen.append(best)
    return chosen


def _host(worker: Mapping[str, Any]) -> str:
    return str(worker.get("host", ""))


def _busy(worker: Mapping[str, Any]) -> int:
    metrics = worker.get("metrics") or {}
    return int(metrics.get("executing", 0)) + int(metrics.get("ready", 0))
