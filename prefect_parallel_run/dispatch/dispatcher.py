"""Carries out what RunState decides, on a Dask client: opens nodes, sends leases, commits receipts, stops everything."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from prefect_parallel_run.compute.base import LEASE_KEY
from prefect_parallel_run.dispatch.calls import call_worker
from prefect_parallel_run.dispatch.elasticity import Elasticity
from prefect_parallel_run.dispatch.hearing import Hearing
from prefect_parallel_run.dispatch.homecoming import Homecoming, LostOnTheWayError
from prefect_parallel_run.dispatch.messages import (
    Abort,
    Commit,
    CommitPiece,
    Event,
    Finish,
    GiveUp,
    Hold,
    Instruction,
    LeaseFinished,
    LeaseShortened,
    NodeLeft,
    NodeResized,
    Ordered,
    PlanEnded,
    PlanGrew,
    ProcessesChanged,
    Recall,
    Release,
    Resize,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.nodes import TICK, Nodes
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.opening import Journey
from prefect_parallel_run.dispatch.state import RunState
from prefect_parallel_run.errors import ComputeTargetError, EntryScriptError, LimitExceededError, OutputError, ParallelRunError
from prefect_parallel_run.failures import first_failure
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.node.node import NOT_BEGUN, LeaseResult
from prefect_parallel_run.node.service import (
    NodeClosedError,
    ready_topic,
    recall_lease,
    resize_node,
    run_lease,
    said_topic,
)
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.slots import Resized
from prefect_parallel_run.node.starting import StartFailure
from prefect_parallel_run.plan import PlanReader
from prefect_parallel_run.records import Lease, Receipt

_END_TIMEOUT = 5.0  #: s for the whole end, whatever nodes do not answer: a person who cancels waits for 10 s at most
_LAST_TIMEOUT = 1.0  #: s for what they have finished until then to come home
_LOST = (KilledWorker, NodeClosedError, LostOnTheWayError, asyncio.CancelledError, CancelledError)
_LOGS_TIMEOUT = 3.0  #: s for the logs of nodes that have them at home


class Growth(Protocol):
    """A plan that is still being made."""

    def is_over(self) -> bool:
        """True once everything is planned; raises what went wrong with that."""

    def take(self) -> list[list[int]]:
        """Return the items of the mini-batches planned since the last call, in order, a list per group."""


@dataclass(slots=True)
class _Sent:
    lease: Lease
    future: Future
    at: float  #: Unix time, s


class Dispatcher:
    """Drives one run on an open cluster.

    Args:
        client: Of the cluster.
        settings: What every node is told.
        plan, ledger, state: Of the run.
        observer: Who is told.
        heartbeat: Called every TICK or so; raises to stop the run (it was cancelled, the lock was lost).
        discard: Called with the name of a worker that counts as lost although it is still there.
        wanted: Nodes used at most.
        growth: Of a plan that is not whole yet.
        prepared: Nodes that are named already, from ``node-0`` on.
        journey: None for nodes that are processes of this machine.
        elasticity: Of a cluster that can grow and shrink.
        orders: Called all the time; yields what a person has ordered since.
    """

    def __init__(
        self,
        client: Client,
        settings: NodeSettings,
        plan: PlanReader,
        ledger: Ledger,
        state: RunState,
        observer: Observer,
        heartbeat: Callable[[], None],
        discard: Callable[[str], None],
        wanted: int,
        growth: Growth | None = None,
        prepared: int = 0,
        journey: Journey | None = None,
        elasticity: Elasticity | None = None,
        orders: Callable[[], Iterable[Ordered]] = tuple,
    ) -> None:
        self._client, self._settings = client, settings
        self._plan, self._ledger, self._state, self._observer = plan, ledger, state, observer
        self._heartbeat, self._growth = heartbeat, growth
        self._events: queue.SimpleQueue[Event | tuple[int, LeaseResult | BaseException]] = queue.SimpleQueue()
        self._sent: dict[int, _Sent] = {}
        self._lost_at: dict[tuple[int, int], float] = {}  # when a try that was lost had been sent
        self._hearing = hearing = Hearing()
        report = self._events.put
        self._nodes = Nodes(client, settings, wanted, observer, heartbeat, discard, report, prepared, journey, hearing.hear)
        self._elasticity = elasticity
        self._homecoming = Homecoming(client, settings.token, settings.run_directory)
        self._orders = orders
        self._unresized: deque[tuple[Resize, BaseException]] = deque()  # of nodes that could not be told
        self._left: set[str] = set()  # nodes that were told as lost
        self._start_failure: StartFailure | None = None
        self._finished = False
        self._told_of_more_rows = False

    def run(self) -> None:
        """Run until every mini-batch has its final outcome.

        Raises:
            LimitExceededError: More failed than is forgiven.
            EntryScriptError: No process of any node can start the script.
            ComputeTargetError: No node is left.
            OutputError: The run directory cannot be written.
        """
        self._client.subscribe_topic(ready_topic(self._settings.token), self._note_ready)
        self._client.subscribe_topic(said_topic(self._settings.token), lambda event: self._hearing.hear(event[1]))
        self._nodes.begin()
        end_by: float | None = None
        try:
            while not self._finished:
                self._nodes.look()
                self._give_back()
                self._resize_again()
                for event in chain(self._grow(), self._obey(), self._wait()):
                    self._follow(self._state.handle(event, time.monotonic()))
                self._observer.progressed(self._state.tally)
                self._tell_script_lines()
                self._heartbeat()
            self._nodes.close()
        except BaseException:
            end_by = time.monotonic() + _END_TIMEOUT
            self._nodes.stop(end_by)
            with suppress(ParallelRunError):  # the first error is the one to tell
                self._take_last_home(end_by)
            raise
        finally:
            end_by = end_by or time.monotonic() + _END_TIMEOUT
            self._fetch_logs(self._nodes.addresses, end_by)
            self._nodes.remove(end_by)
            if self._client.status == "running":
                self._client.unsubscribe_topic(ready_topic(self._settings.token))
                self._client.unsubscribe_topic(said_topic(self._settings.token))
            self._tell_script_lines()
            if self._hearing.left_out:
                self._observer.script_left_out(self._hearing.left_out)

    # Events

    def _grow(self) -> Iterator[Event]:
        """Yield what has been planned since the last look, once the ledger has it."""
        if self._growth is None:
            return
        is_over = self._growth.is_over()  # asked first: what is taken then is all there will be
        for items in self._growth.take():
            self._ledger.extend(items)
            yield PlanGrew(items)
        if is_over:
            self._growth = None
            yield PlanEnded()

    def _obey(self) -> Iterator[Event]:
        """Yield what a person has ordered since the last look."""
        for order in self._orders():
            if isinstance(order, ProcessesChanged):
                self._nodes.want_slots(order.count)
            yield order

    def _wait(self) -> Iterator[Event]:
        """Yield what has happened, after a while at most.

        One after the other, each followed before the next is looked at: what a lease brought home is not held longer than
        that, and a node is forgotten here just when the state hears that it is lost, so that nothing is sent to it between.
        """
        due = self._state.next_due
        patience = TICK if due is None else min(TICK, max(due - time.monotonic(), 0.0))
        try:
            message = self._events.get(timeout=patience) if patience > 0 else self._events.get_nowait()
        except queue.Empty:
            yield Tick()
            return
        arrived = self._events.qsize()  # what comes meanwhile has its turn after the heartbeat
        yield self._event(message)
        for _ in range(arrived):  # one by one out of the queue: should the run end here, the rest is taken home from there
            yield self._event(self._events.get_nowait())

    def _event(self, message: Event | tuple[int, LeaseResult | BaseException]) -> Event:
        if isinstance(message, tuple):
            return self._translate(*message)
        return self._forget(message.node) if isinstance(message, NodeLeft) else message

    def _translate(self, number: int, outcome: LeaseResult | BaseException) -> Event:
        """Return what the end of a lease means."""
        sent = self._sent.get(number)
        if sent is None:  # of a node that was lost meanwhile
            return Tick()
        if isinstance(outcome, BaseException):
            if getattr(outcome, "reason", "") == "scheduler-connection-lost":  # no mini-batch and no node is to blame
                raise ComputeTargetError("scheduler", "the connection to it was lost") from outcome
            if isinstance(outcome, _LOST):
                return self._forget(sent.lease.node)
            if isinstance(outcome, OSError):
                raise OutputError(self._settings.run_directory, f"node {sent.lease.node}: {outcome}") from outcome
            raise outcome
        del self._sent[number]
        if outcome.failure is not None:
            self._start_failure = self._start_failure or outcome.failure
            self._observer.slot_failed(sent.lease.node, outcome.failure)
        return LeaseFinished(number, [Receipt(*receipt) for receipt in outcome.receipts], outcome.slots, outcome.as_of)

    def _give_back(self) -> None:
        """Have a cluster that can grow and shrink do so."""
        if self._elasticity is None or self._state.is_paused:  # what is idle then, or waits, says nothing of what is needed
            return
        state = self._state
        going = self._elasticity.look(
            time.monotonic(),
            backlog=state.backlog,
            seconds=state.mean_seconds,
            slots=state.slots,
            nodes=len(self._nodes.addresses),
            opening=self._nodes.opening,
            idle=state.idle_nodes,
        )
        for node in going:  # first: nothing more is sent there
            self._follow(state.handle(NodeLeft(node), time.monotonic()))
        if going:
            addresses = [self._nodes.address_of(node) for node in going]
            self._nodes.give_back(going, lambda ended: self._fetch_logs(ended, time.monotonic() + _LOGS_TIMEOUT))
            self._elasticity.release(addresses)

    def _note_ready(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take note, on the client's thread, that a slot is ready."""
        self._events.put(SlotReady(event[1]["node"], event[1]["as_of"]))

    def _tell_script_lines(self) -> None:
        for line in self._hearing.take():
            self._observer.script_said(line)

    def _forget(self, node: str) -> NodeLeft:
        self._nodes.forget(node)
        if node not in self._left:  # its leases may tell as well as the scheduler
            self._left.add(node)
            self._observer.node_left(node)
        for number in [number for number, sent in self._sent.items() if sent.lease.node == node]:
            sent = self._sent.pop(number)
            sent.future.cancel()
            self._lost_at[sent.lease.start, sent.lease.attempt] = sent.at
        return NodeLeft(node)

    # Instructions

    def _follow(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SubmitLease(lease):
                    self._submit(lease)
                case Recall(number, at_once):
                    self._recall(number, at_once=at_once)
                case Resize():
                    self._resize(instruction)
                case Commit(decided):
                    self._commit(decided)
                case CommitPiece():
                    self._ledger.commit_piece(instruction.receipt, instruction.piece, instruction.failed, instruction.state)
                case Hold(breach):
                    self._observer.held(breach)
                case Release():
                    self._observer.held(None)
                case Abort(breach):
                    raise LimitExceededError(*breach, self._settings.run_directory, first_failure(self._ledger))
                case GiveUp(slots_failed):
                    raise self._nowhere_left(slots_failed)
                case Finish():
                    self._finished = True

    def _submit(self, lease: Lease) -> None:
        works = "\n".join(self._plan.works(lease.start, lease.stop)).encode("ascii")
        address = self._nodes.address_of(lease.node)
        future = self._client.submit(
            run_lease,
            self._settings.token,
            lease.id,
            lease.start,
            lease.attempt,
            works,
            lease.piece,
            key=f"{LEASE_KEY}{self._settings.token}-{lease.id}",
            workers=[address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[lease.id] = _Sent(lease, future, time.time())
        rows_at = address if self._nodes.has_rows_at_home(lease.node) else None
        self._client.loop.add_callback(self._bring_home, lease.id, future, rows_at)

    def _recall(self, number: int, *, at_once: bool) -> None:
        """Ask for what a lease has not begun; the answer comes as an event."""
        sent = self._sent.get(number)
        if sent is None:  # its result is here already, and is looked at next
            return
        address = self._nodes.address_of(sent.lease.node)
        asked = call_worker(self._client, address, recall_lease, self._settings.token, number, at_once)
        asked.add_done_callback(lambda done: self._note_recalled(number, sent.lease.start, done))

    def _note_recalled(self, number: int, start: int, done: ThreadFuture[int | None]) -> None:
        """Take note, on the client's thread, of what a lease has given back."""
        error = done.exception()
        if error is None:
            stop = done.result()
            self._events.put(LeaseShortened(number, start if stop == NOT_BEGUN else stop))
        elif isinstance(error, OSError | asyncio.TimeoutError | asyncio.CancelledError):
            self._events.put(LeaseShortened(number, None))  # the node is lost, which is found out elsewhere; or it was busy
        else:
            self._events.put((number, error))

    def _resize(self, wanted: Resize) -> None:
        """Have a node start slots, or retire some; the answer comes as an event."""
        address = self._nodes.address_of(wanted.node)
        asked = call_worker(self._client, address, resize_node, self._settings.token, wanted.slots, wanted.number)
        asked.add_done_callback(lambda done: self._note_resized(wanted, done))

    def _note_resized(self, wanted: Resize, done: ThreadFuture[Resized]) -> None:
        """Take note, on the client's thread, of what slots a node has now."""
        error = done.exception()
        if error is None:
            self._events.put(NodeResized(wanted.node, *done.result()))
        else:
            self._unresized.append((wanted, error))

    def _resize_again(self) -> None:
        """Tell nodes again that could not be told, as long as they are there."""
        for _ in range(len(self._unresized)):
            wanted, error = self._unresized.popleft()
            if not isinstance(error, OSError | asyncio.TimeoutError | _LOST):
                raise error
            if self._nodes.has(wanted.node):  # else it is lost
                self._resize(wanted)

    async def _bring_home(self, number: int, future: Future, rows_at: str | None) -> None:
        """Wait for a lease on the client's loop, so that a result that never comes blocks nobody.

        Args:
            number: Of the lease.
            future: Its result.
            rows_at: Address of a node from which its rows have to be fetched.
        """
        outcome: Any
        try:
            outcome = await self._client.gather(future, asynchronous=True)
            if rows_at is not None:
                await self._homecoming.fetch_rows(rows_at, outcome.receipts)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  handed to the thread that drives the run
            outcome = error
        self._events.put((number, outcome))

    def _commit(self, decided: list[tuple[Receipt, str]]) -> None:
        if self._lost_at:
            decided = [(self._dated(receipt), state) for receipt, state in decided]
        self._ledger.commit(decided)
        self._observer.committed([receipt for receipt, _ in decided])
        for receipt, state in decided:
            if receipt.outcome != "succeeded":
                self._observer.tried(receipt, state)
            elif receipt.rows > receipt.items and not self._told_of_more_rows:
                self._told_of_more_rows = True
                words = f"run() returned {receipt.rows} rows for {receipt.items} items of mini-batch {receipt.mini_batch}"
                self._observer.warned(f"{words}; all are kept (this is told once)")

    def _dated(self, receipt: Receipt) -> Receipt:
        """Return the receipt of a lost try with the time it was sent: nobody knows when it began."""
        if receipt.outcome != "lost":
            return receipt
        at = self._lost_at.pop((receipt.mini_batch, receipt.attempt), time.time())
        return receipt._replace(started=at, seconds=max(time.time() - at, 0.0))

    # Ends

    def _nowhere_left(self, slots_failed: bool) -> Exception:
        failure = self._start_failure
        if slots_failed and failure is not None:
            reason = {
                "spawn": "its process could not be started",
                "import": "it could not be imported",
                "init": "its init() failed",
                "start": "its process never became ready",
                "idle": "its process does not stay alive",
            }[failure.stage]
            words = f"{reason}: {failure.error_type}: {failure.error}"
            return EntryScriptError(self._settings.script, words, failure.traceback)
        return ComputeTargetError("cluster", "all nodes were lost and no new one came")

    def _take_last_home(self, end_by: float) -> None:
        """Commit what was finished in the leases that were stopped: it need not run again when the run is gone on with."""
        self._state.end()
        deadline = min(end_by, time.monotonic() + _LAST_TIMEOUT)
        while self._sent and (left := deadline - time.monotonic()) > 0:
            try:
                message = self._events.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(message, tuple) and not isinstance(message[1], BaseException):
                self._follow(self._state.handle(self._translate(*message), time.monotonic()))

    def _fetch_logs(self, addresses: Collection[str], end_by: float) -> None:
        """Bring home what the processes of those nodes have printed that keep it to themselves, as far as time allows."""
        addresses = [address for address in self._nodes.with_rows_at_home if address in addresses]

        async def fetch() -> None:
            await asyncio.gather(*(self._homecoming.fetch_logs(address) for address in addresses))

        if addresses and self._client.status == "running":
            try:
                timeout = min(_LOGS_TIMEOUT, max(end_by - time.monotonic(), 0.1))
                self._client.sync(fetch, callback_timeout=timeout)
            except (asyncio.TimeoutError, asyncio.CancelledError, OSError) as error:
                self._observer.warned(f"not all logs could be brought home: {type(error).__name__}: {error}")
