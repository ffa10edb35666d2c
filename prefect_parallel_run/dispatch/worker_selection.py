"""Selects the workers of a run when a cluster has more than it needs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def select_workers(workers: Mapping[str, Mapping[str, Any]], used: Iterable[str], count: int) -> list[str]:
    """Return the addresses of up to *count* workers, spread over hosts, least busy first.

    Args:
        workers: The scheduler's information about available workers, by address.
        used: Hosts of workers that are already in use, one entry per worker.
        count: Largest number to return; 0 or less for none.

    >>> idle, busy = {"executing": 0}, {"executing": 3}
    >>> rows = [("a", "h1", busy), ("b", "h1", idle), ("c", "h2", busy)]
    >>> workers = {address: {"host": host, "metrics": metrics} for address, host, metrics in rows}
    >>> select_workers(workers, ["h3"], 2)
    ['b', 'c']
    >>> select_workers(workers, ["h2"], 1)
    ['b']
    """
    on_host = Counter(used)
    remaining = dict(workers)
    chosen: list[str] = []
    while remaining and len(chosen) < count:
        best = min(
            remaining, key=lambda address: (on_host[_host(remaining[address])], _queued_tasks(remaining[address]), address)
        )
        on_host[_host(remaining.pop(best))] += 1
        chosen.append(best)
    return chosen


def _host(worker: Mapping[str, Any]) -> str:
    return str(worker.get("host", ""))


def _queued_tasks(worker: Mapping[str, Any]) -> int:
    metrics = worker.get("metrics") or {}
    return int(metrics.get("executing", 0)) + int(metrics.get("ready", 0))
