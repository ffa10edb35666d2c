"""The Dask workers of a cluster: which are alive, which to use, and calls to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from distributed import Client


class Changes(NamedTuple):
    """Changes since the last update, as sorted addresses."""

    new: list[str]  #: new, or alive again
    gone: list[str]  #: no longer listed by the scheduler
    silent: list[str]  #: still listed, but without a heartbeat for too long: stopped, cut off, hung


@dataclass(slots=True)
class _Worker:
    last_seen: float  # the scheduler's time stamp; its clock is not ours, so it is only compared with itself
    since: float  # our clock at its last change
    is_silent: bool = False


class WorkerTracker:
    """Tracks the workers of a scheduler by their heartbeats.

    Args:
        patience: Seconds without a heartbeat after which a worker counts as lost.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._workers: dict[str, _Worker] = {}

    def update(self, heartbeats: Mapping[str, float], now: float) -> Changes:
        """Record the latest heartbeat of every worker and return the changes.

        >>> tracker = WorkerTracker(30)
        >>> tracker.update({"a": 5.0, "b": 5.0}, 0).new
        ['a', 'b']
        >>> tracker.update({"a": 6.0, "b": 5.0}, 31)
        Changes(new=[], gone=[], silent=['b'])
        >>> tracker.update({"b": 7.0}, 32)
        Changes(new=['b'], gone=['a'], silent=[])
        """
        gone = [address for address, worker in self._workers.items() if address not in heartbeats and not worker.is_silent]
        self._workers = {address: worker for address, worker in self._workers.items() if address in heartbeats}
        new, silent = [], []
        for address, last_seen in heartbeats.items():
            worker = self._workers.get(address)
            if worker is None:
                new.append(address)
                self._workers[address] = _Worker(last_seen, now)
            elif last_seen != worker.last_seen:
                if worker.is_silent:
                    new.append(address)
                self._workers[address] = _Worker(last_seen, now)
            elif not worker.is_silent and now - worker.since > self._patience:
                worker.is_silent = True
                silent.append(address)
        return Changes(sorted(new), sorted(gone), sorted(silent))


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


async def ask_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *function* on a worker; raises its error, or that of the connection."""
    answers = await client.run(function, *arguments, workers=[address], asynchronous=True)
    return next(iter(answers.values()))


def call_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Start a call and return its future, which also carries errors of the function or of the connection."""
    done: Future[Any] = Future()

    async def call() -> None:
        outcome: Any
        try:
            outcome = await ask_worker(client, address, function, *arguments)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  passed to the dispatcher's thread
            outcome = error
        if done.set_running_or_notify_cancel():
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

    client.loop.add_callback(call)
    return done
