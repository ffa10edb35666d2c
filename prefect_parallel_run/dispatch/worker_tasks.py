"""Runs tasks that are not mini-batches on the workers of a cluster: in parallel, with a bounded number in flight.

Every task is sent to a worker that is chosen here, so that a lost worker costs exactly its own tasks, which are repeated
elsewhere. The flow process repeats a task that fails on a worker. If it fails here too, this error is
raised; otherwise the worker is no longer used.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distributed import Future

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.compute.base import LEASE_KEY, Cluster
from prefect_parallel_run.dispatch.node_pool import TICK
from prefect_parallel_run.dispatch.transport import LOST
from prefect_parallel_run.dispatch.workers import LiveWorkers, call_worker, host_of, select_workers
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.worker_tasks import TaskRefusedError, run_task, stop_tasks
from prefect_parallel_run.runs.events import Emit, Warned

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T, CheckCancelled], R]
_MOST_PER_WORKER = 4  #: tasks in flight: each may need some hundred MB
_MAX_LOSSES = 3  #: times that a task is lost with its worker
_PATIENCE = 20.0  #: s without a worker after which the flow process runs the tasks: a local worker is replaced within seconds
_STOP_TIMEOUT = 5.0  #: s for running tasks to stop


@dataclass(slots=True)
class _Sent(Generic[T]):
    task: T
    number: int  #: of the task
    address: str
    future: Future


class WorkerTasks(Generic[T, R]):
    """Runs the tasks of one kind on a cluster.

    Args:
        cluster: An open cluster.
        at_most: Number of workers to use.
        on_worker: Runs a task on a worker; raises TaskRefusedError on a machine that cannot run any.
        here: Runs a task in this process.
        emit: Receives warnings.
    """

    def __init__(self, cluster: Cluster, at_most: int, on_worker: Work[T, R], here: Work[T, R], emit: Emit) -> None:
        self._client, self._at_most, self._on_worker, self._here, self._emit = cluster.client, at_most, on_worker, here, emit
        self._token = uuid.uuid4().hex
        self._answers: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._workers = LiveWorkers(cluster.client, cluster.discard, lambda: self._answers.put(None))
        self._sent: dict[int, _Sent[T]] = {}  # by number of the attempt
        self._used: dict[str, str] = {}  # hosts of the workers in use, by address
        self._lost: set[str] = set()  # addresses; the scheduler may list them for a while
        self._unable: set[str] = set()  # addresses of workers that cannot run a task
        self._next: deque[tuple[int, T]] = deque()  # tasks to send next, with their numbers
        self._losses: Counter[int] = Counter()  # by number of the task
        self._attempts = 0
        self._is_listed = False  # the scheduler has listed its workers
        self._last_seen = 0.0  # when there was a usable worker, or none was listed yet
        self._runs_here = False  # for good: this process runs the other tasks

    def run(self, tasks: Iterable[T], check_cancelled: CheckCancelled) -> Iterator[R]:
        """Yield the results of all tasks as they arrive; *check_cancelled* is called about every TICK, and raises to stop.

        Raises:
            ComputeTargetError: A task was lost several times with its worker: it may be what kills workers.
        """
        pending = enumerate(tasks)
        try:
            while self._has_task(pending) or self._sent:
                self._update_workers()
                while self._has_task(pending) and (address := self._free_worker()) is not None:
                    self._send(*self._next.popleft(), address)
                if self._runs_here and not self._sent:
                    yield self._here(self._next.popleft()[1], check_cancelled)
                else:
                    yield from self._handle(self._next_answer(), check_cancelled)
                check_cancelled()
        finally:
            self._stop()

    def _has_task(self, pending: Iterator[tuple[int, T]]) -> bool:
        """True when a task is not sent yet; takes it from *pending* unless one is to be repeated."""
        if not self._next and (task := next(pending, None)) is not None:
            self._next.append(task)
        return bool(self._next)

    # Workers

    def _update_workers(self) -> None:
        """Follow the scheduler's list of workers, and use as many as allowed; without a scheduler, all are lost."""
        try:
            answer = self._workers.poll()
            self._is_listed = self._is_listed or answer is not None
            lost = answer or []
        except ComputeTargetError as error:
            self._give_up(str(error))
            lost = [*self._used, *(sent.address for sent in self._sent.values())]
        for address in lost:
            self._lose(address)
        info = self._workers.info
        free = {address: worker for address, worker in info.items() if address not in {*self._used, *self._lost, *self._unable}}
        for address in select_workers(free, self._used.values(), self._at_most - len(self._used)):
            self._used[address] = host_of(free[address])
        now = time.monotonic()
        if self._used or not self._is_listed:
            self._last_seen = now
        elif info and self._unable >= info.keys():
            self._runs_here = True
        elif now - self._last_seen > _PATIENCE:
            self._give_up(f"no worker for {_PATIENCE:g} s")

    def _give_up(self, reason: str) -> None:
        if not self._runs_here:
            self._emit(Warned(f"{reason}; the flow process writes the rest of the result"))
        self._runs_here = True

    def _free_worker(self) -> str | None:
        """Return the least busy worker that can take a task."""
        busy = Counter(sent.address for sent in self._sent.values())
        info = self._workers.info
        free = [address for address in self._used if address in info and busy[address] < _capacity(info[address])]
        return min(free, key=lambda address: busy[address], default=None) if not self._runs_here else None

    def _send(self, number: int, task: T, address: str) -> None:
        self._attempts += 1
        future = self._client.submit(
            run_task,
            self._token,
            self._on_worker,
            task,
            key=f"{LEASE_KEY}task-{self._token}-{self._attempts}",
            workers=[address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[self._attempts] = _Sent(task, number, address, future)
        self._client.loop.add_callback(self._await_result, self._attempts, future)

    async def _await_result(self, attempt: int, future: Future) -> None:
        outcome: Any
        try:
            outcome = (await self._client.gather(future, asynchronous=True),)
        except BaseException as error:  # noqa: BLE001  passed to the flow's thread, which would wait for it forever
            outcome = error
        self._answers.put((attempt, outcome))

    def _next_answer(self) -> tuple[int, Any] | None:
        try:
            return self._answers.get(timeout=TICK)
        except queue.Empty:
            return None

    def _handle(self, answer: tuple[int, Any] | None, check_cancelled: CheckCancelled) -> Iterator[R]:
        """Yield the result in an answer; repeat a task that was lost or has failed."""
        sent = self._sent.pop(answer[0], None) if answer is not None else None
        if answer is None or sent is None:  # the worker was lost before
            return
        outcome = answer[1]
        if not isinstance(outcome, BaseException):
            yield outcome[0]
        elif isinstance(outcome, LOST):
            self._repeat(sent)
            self._lose(sent.address)
        elif isinstance(outcome, TaskRefusedError):
            self._next.append((sent.number, sent.task))
            self._exclude(sent.address)
        else:
            result = self._here(sent.task, check_cancelled)  # raises if the error is not the worker's own
            if sent.address not in self._unable:
                self._emit(Warned(f"worker {sent.address} cannot write the result: {type(outcome).__name__}: {outcome}"))
            self._exclude(sent.address)
            yield result

    def _lose(self, address: str) -> None:
        """Stop using a lost worker, and repeat its tasks."""
        self._lost.add(address)
        self._used.pop(address, None)
        for attempt in [attempt for attempt, sent in self._sent.items() if sent.address == address]:
            self._repeat(self._sent.pop(attempt))

    def _repeat(self, sent: _Sent[T]) -> None:
        sent.future.cancel()
        self._losses[sent.number] += 1
        if self._losses[sent.number] >= _MAX_LOSSES and not self._runs_here:
            reason = f"lost; it is one of {_MAX_LOSSES} workers that were lost while they wrote the same part of the result"
            raise ComputeTargetError(sent.address, reason)
        self._next.append((sent.number, sent.task))

    def _exclude(self, address: str) -> None:
        """Stop using a worker that cannot run tasks; those that it has accepted end as they will."""
        self._unable.add(address)
        self._used.pop(address, None)

    def _stop(self) -> None:
        """Stop the tasks that are running, and wait some seconds for them to end."""
        for sent in self._sent.values():
            sent.future.cancel()
        if self._sent and self._client.status == "running":
            addresses = {sent.address for sent in self._sent.values()}
            wait_for([call_worker(self._client, address, stop_tasks, self._token) for address in addresses], _STOP_TIMEOUT)


def _capacity(worker: dict[str, Any]) -> int:
    """Return how many tasks a worker takes at a time: half of its threads, since a local worker has two per process."""
    return max(1, min(_MOST_PER_WORKER, int(worker["nthreads"]) // 2))
