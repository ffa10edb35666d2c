"""The Dask workers of a cluster: which are alive, which to use, and calls to them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from typing import Any

from distributed import Client

from prefect_parallel_run.errors import ComputeTargetError

GONE = (OSError, asyncio.TimeoutError, asyncio.CancelledError, FutureCancelledError)  #: errors of calls to a lost worker
_PATIENCE = 30.0  #: s without a heartbeat after which a worker counts as lost, or without an answer of the scheduler
_LONGEST_GAP = 5.0  #: s between two polls of a process that is not stopped meanwhile
_QUERY_INTERVAL = 1.0  #: s between two queries of the scheduler


async def ask_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *function* on a worker; raises its error, or that of the connection."""
    answers = await client.run(function, *arguments, workers=[address], asynchronous=True)
    return next(iter(answers.values()))


def call_worker(client: Client, address: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Start a call and return its future, which a thread can wait for or abandon.

    It also carries errors of the function or of the connection.
    """
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


class LiveWorkers:
    """The live workers of a cluster, from periodic queries of its scheduler.

    *discard* kills an unresponsive worker, by name; *wake* is called on the client's thread when the scheduler has answered.
    """

    def __init__(self, client: Client, discard: Callable[[str], None], wake: Callable[[], None]) -> None:
        self._client, self._discard, self._wake = client, discard, wake
        self._tracker = WorkerTracker(_PATIENCE)
        self._query: Future[Any] | None = None  # pending query of the scheduler
        self._queried_at = self._polled_at = 0.0
        self._waited = 0.0  # s for its answer
        self._next_query = 0.0
        self.info: dict[str, Any] = {}  #: the scheduler's information about live workers, by address

    def poll(self) -> list[str] | None:
        """Update the workers and return the addresses of lost ones; None until the scheduler answers a query.

        Never waits: if the scheduler is slow, the run continues with its current nodes.

        Raises:
            ComputeTargetError: The scheduler is lost.
        """
        now = time.monotonic()
        # A longer gap counts in part: if this process was stopped, it has not read an answer yet.
        gap, self._polled_at = min(now - self._polled_at, _LONGEST_GAP), now
        if self._query is None:
            if now >= self._next_query:
                self._query, self._queried_at, self._waited = self._ask_scheduler(), now, 0.0
                self._query.add_done_callback(lambda _: self._wake())
            return None
        if not self._query.done():
            self._waited += gap
            if self._waited > _PATIENCE:
                self._query.cancel()
                raise ComputeTargetError("scheduler", f"no answer for {_PATIENCE:g} s")
            return None
        answered, self._query = self._query, None
        self._next_query = now + _QUERY_INTERVAL
        try:
            # Use the time of the query: if this process was stopped after the answer arrived, it has missed newer heartbeats.
            return self._update(answered.result()["workers"], self._queried_at)
        except GONE as error:
            raise ComputeTargetError("scheduler", f"no answer: {error or type(error).__name__}") from error

    def _ask_scheduler(self) -> Future[Any]:
        scheduler = self._client.scheduler
        if scheduler is None:  # the client closed because it lost its scheduler
            raise ComputeTargetError("scheduler", "lost the connection to it")
        return asyncio.run_coroutine_threadsafe(scheduler.identity(), self._client.loop.asyncio_loop)

    def _update(self, workers: dict[str, Any], now: float) -> list[str]:
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        gone, silent = self._tracker.update(heartbeats, now)
        self.info = {address: worker for address, worker in workers.items() if address not in self._tracker.silent}
        for address in silent:
            self._discard(str(workers[address]["name"]))
        return [*gone, *silent]


class WorkerTracker:
    """Tracks workers by their heartbeats: one without any for *patience* seconds counts as lost. Pure."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        # Of the latest heartbeat, by address: the scheduler's time stamp, which is only compared with itself, and our clock.
        self._heartbeats: dict[str, tuple[float, float]] = {}
        self.silent: set[str] = set()  #: listed workers that count as lost: stopped, cut off, hung

    def update(self, heartbeats: Mapping[str, float], now: float) -> tuple[list[str], list[str]]:
        """Record the latest heartbeat of every listed worker; return which are no longer listed, and which became silent.

        >>> tracker = WorkerTracker(30)
        >>> tracker.update({"a": 5.0, "b": 5.0}, 0)
        ([], [])
        >>> tracker.update({"a": 6.0, "b": 5.0}, 31)
        ([], ['b'])
        >>> tracker.update({"b": 7.0}, 32), tracker.silent
        ((['a'], []), set())
        """
        gone = sorted(self._heartbeats.keys() - heartbeats.keys() - self.silent)
        before, self._heartbeats = self._heartbeats, {}
        for address, last_seen in heartbeats.items():
            earlier = before.get(address)
            self._heartbeats[address] = earlier if earlier and earlier[0] == last_seen else (last_seen, now)
        silent = {address for address, (_, since) in self._heartbeats.items() if now - since > self._patience}
        became_silent, self.silent = sorted(silent - self.silent), silent
        return gone, became_silent


def select_workers(workers: Mapping[str, Mapping[str, Any]], used: Iterable[str], count: int) -> list[str]:
    """Return the addresses of up to *count* workers, spread over hosts, least busy first. Pure.

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

    def rank(address: str) -> tuple[int, int, str]:
        metrics = remaining[address].get("metrics") or {}
        queued = int(metrics.get("executing", 0)) + int(metrics.get("ready", 0))
        return on_host[host_of(remaining[address])], queued, address

    while remaining and len(chosen) < count:
        best = min(remaining, key=rank)
        on_host[host_of(remaining.pop(best))] += 1
        chosen.append(best)
    return chosen


def host_of(worker: Mapping[str, Any]) -> str:
    """Return the host of a worker from the scheduler's information about it."""
    return str(worker.get("host", ""))
