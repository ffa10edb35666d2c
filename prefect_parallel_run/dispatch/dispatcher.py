"""Carries out what RunState decides, on a Dask client: opens nodes, sends leases, commits receipts, stops everything."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from prefect_parallel_run.compute.base import LEASE_KEY
from prefect_parallel_run.dispatch.calls import call_worker
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
    NodeJoined,
    NodeLeft,
    PlanEnded,
    PlanGrew,
    Recall,
    Release,
    SlotReady,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.roster import Roster
from prefect_parallel_run.dispatch.state import RunState
from prefect_parallel_run.errors import ComputeTargetError, EntryScriptError, LimitExceededError, OutputError, ParallelRunError
from prefect_parallel_run.failures import first_failure
from prefect_parallel_run.ledger import Ledger
from prefect_parallel_run.node.node import (
    LeaseResult,
    NodeClosedError,
    close_node,
    open_node,
    ready_topic,
    recall_lease,
    run_lease,
)
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.starting import StartFailure
from prefect_parallel_run.plan import PlanReader
from prefect_parallel_run.records import Lease, Receipt

_TICK = 0.25  #: s at most between two looks at the clock
_NODE_LOOK = 1.0  #: s between two looks at which nodes there are
_PATIENCE = 30.0  #: s without a sign of life after which a node, or the scheduler, counts as lost
_STOP_TIMEOUT = 4.0  #: s for the nodes to stop their children when a run is aborted
_LAST_TIMEOUT = 1.0  #: s for what they have finished until then to come home
_LOST = (KilledWorker, NodeClosedError, asyncio.CancelledError)


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
        heartbeat: Called every _TICK or so; raises to stop the run (it was cancelled, the lock was lost).
        discard: Called with the name of a worker that counts as lost although it is still there.
        prepared: Nodes that are named already, from ``node-0`` on.
        growth: Of a plan that is not whole yet.
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
        growth: Growth | None = None,
        prepared: int = 0,
    ) -> None:
        self._client, self._settings = client, settings
        self._plan, self._ledger, self._state, self._observer = plan, ledger, state, observer
        self._heartbeat, self._discard, self._growth = heartbeat, discard, growth
        self._roster = Roster(_PATIENCE)
        self._events: queue.SimpleQueue[Event | tuple[int, LeaseResult | BaseException]] = queue.SimpleQueue()
        self._sent: dict[int, _Sent] = {}
        self._lost_at: dict[tuple[int, int], float] = {}  # when a try that was lost had been sent
        self._names: dict[str, str] = {}  # node by address
        self._next_name = prepared
        self._left: set[str] = set()  # nodes that were told as lost
        self._next_look = 0.0
        self._unopened: list[str] = []  # workers that have come and are not used yet
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
        try:
            while not self._finished:
                self._look_at_nodes()
                for event in chain(self._grow(), self._wait()):
                    self._follow(self._state.handle(event, time.monotonic()))
                self._observer.progressed(self._state.tally)
                self._heartbeat()
            self._close()
        except BaseException:
            self._stop()
            with suppress(ParallelRunError):  # the first error is the one to tell
                self._take_last_home()
            raise
        finally:
            self._client.unsubscribe_topic(ready_topic(self._settings.token))

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

    def _wait(self) -> Iterator[Event]:
        """Yield what has happened, after a while at most.

        One after the other, each followed before the next is looked at: what a lease brought home is not held longer than
        that, and a node is forgotten here just when the state hears that it is lost, so that nothing is sent to it between.
        """
        due = self._state.next_due
        patience = _TICK if due is None else min(_TICK, max(due - time.monotonic(), 0.0))
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
            if isinstance(outcome, _LOST):
                return self._forget(sent.lease.node)
            if isinstance(outcome, OSError):
                raise OutputError(self._settings.run_directory, f"node {sent.lease.node}: {outcome}") from outcome
            raise outcome
        del self._sent[number]
        if outcome.failure is not None:
            self._start_failure = self._start_failure or outcome.failure
            self._observer.slot_failed(sent.lease.node, outcome.failure)
        return LeaseFinished(number, [Receipt(*receipt) for receipt in outcome.receipts], outcome.slots)

    def _look_at_nodes(self) -> None:
        """Find out, now and then, which nodes have come and which are lost."""
        if time.monotonic() >= self._next_look:
            self._notice(())
        if self._unopened:
            addresses, self._unopened = self._unopened, []
            self._open(addresses)

    def _notice(self, being_called: Collection[str]) -> list[str]:
        """Take note of workers that came or went; return those being called that are lost, which the caller sees to."""
        self._next_look = time.monotonic() + _NODE_LOOK
        workers = self._workers()
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        changes = self._roster.look(heartbeats, time.monotonic())
        self._unopened += changes.fresh
        lost = [*changes.gone, *changes.silent]
        for address in lost:
            if address in self._names and address not in being_called:
                self._events.put(NodeLeft(self._names[address]))
        for address in changes.silent:
            self._discard(str(workers[address]["name"]))
        return [address for address in lost if address in being_called]

    def _workers(self) -> dict[str, Any]:
        """Return what the scheduler says of its workers, by address."""
        try:
            identity = self._client.sync(self._client.scheduler.identity, callback_timeout=_PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            raise ComputeTargetError("scheduler", f"it does not answer: {error or type(error).__name__}") from error
        workers: dict[str, Any] = identity["workers"]
        return workers

    def _open(self, addresses: list[str]) -> None:
        offered = {address: f"node-{number}" for number, address in enumerate(addresses, self._next_name)}
        self._names |= offered
        opened = self._call(addresses, open_node, self._settings, self._names)
        for number, (address, name) in enumerate(offered.items(), self._next_name):
            if getattr(opened[address], "node", name) == name:  # taken, or perhaps taken by one that could not answer
                self._next_name = number + 1
        for address, facts in opened.items():
            if isinstance(facts, OSError | asyncio.TimeoutError):  # gone again, or deaf, before it could be opened
                self._names.pop(address, None)
                continue
            if isinstance(facts, BaseException):
                raise facts
            self._names[address] = facts.node
            self._observer.node_joined(facts)
            self._events.put(NodeJoined(facts.node, facts.slots))

    def _note_ready(self, event: tuple[float, dict[str, str]]) -> None:
        """Take note, on the client's thread, that a slot is ready."""
        self._events.put(SlotReady(event[1]["node"]))

    def _call(self, addresses: list[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call *function* on some workers and return what came of it, an exception for one that is lost or gives no sign.

        Meanwhile the heartbeat goes on. A function may take its time as long as its worker shows that it lives.
        """
        calls = {address: call_worker(self._client, address, function, *arguments) for address in addresses}
        while not all(call.done() for call in calls.values()):
            wait_for(calls.values(), timeout=_TICK)
            self._heartbeat()
            if time.monotonic() >= self._next_look:
                for address in self._notice(calls):
                    calls[address].cancel()
        lost = OSError("the worker was lost")
        return {address: lost if call.cancelled() else call.exception() or call.result() for address, call in calls.items()}

    def _close(self) -> None:
        """Have all nodes call shutdown() and end; what goes wrong there is told, and harms nothing: all is committed."""
        for address, problems in self._call(list(self._names), close_node, self._settings.token, True).items():
            if isinstance(problems, BaseException):
                self._observer.warned(f"{self._names[address]} was lost while shutdown() of the entry script ran there")
                continue
            for text in problems:
                self._observer.warned(f"shutdown() of the entry script failed:\n{text}")

    def _forget(self, node: str) -> NodeLeft:
        self._names = {address: name for address, name in self._names.items() if name != node}
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
        future = self._client.submit(
            run_lease,
            self._settings.token,
            lease.id,
            lease.start,
            lease.attempt,
            works,
            lease.piece,
            key=f"{LEASE_KEY}{self._settings.token}-{lease.id}",
            workers=[self._address_of(lease.node)],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        self._sent[lease.id] = _Sent(lease, future, time.time())
        self._client.loop.add_callback(self._bring_home, lease.id, future)

    def _address_of(self, node: str) -> str:
        return next(address for address, name in self._names.items() if name == node)

    def _recall(self, number: int, *, at_once: bool) -> None:
        """Ask for what a lease has not begun; the answer comes as an event."""
        sent = self._sent.get(number)
        if sent is None:  # its result is here already, and is looked at next
            return
        address = self._address_of(sent.lease.node)
        asked = call_worker(self._client, address, recall_lease, self._settings.token, number, at_once)
        asked.add_done_callback(lambda done: self._note_recalled(number, done))

    def _note_recalled(self, number: int, done: ThreadFuture[int | None]) -> None:
        """Take note, on the client's thread, of what a lease has given back."""
        error = done.exception()
        if error is None:
            self._events.put(LeaseShortened(number, done.result()))
        elif isinstance(error, OSError | asyncio.TimeoutError | asyncio.CancelledError):
            self._events.put(LeaseShortened(number, None))  # the node is lost, which is found out elsewhere; or it was busy
        else:
            self._events.put((number, error))

    async def _bring_home(self, number: int, future: Future) -> None:
        """Wait for a lease on the client's loop, so that a result that never comes blocks nobody."""
        outcome: Any
        try:
            outcome = await self._client.gather(future, asynchronous=True)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  handed to the thread that drives the run
            outcome = error
        self._events.put((number, outcome))

    def _commit(self, decided: list[tuple[Receipt, str]]) -> None:
        if self._lost_at:
            decided = [(self._dated(receipt), state) for receipt, state in decided]
        self._ledger.commit(decided)
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

    def _take_last_home(self) -> None:
        """Commit what was finished in the leases that were stopped: it need not run again when the run is gone on with."""
        self._state.end()
        deadline = time.monotonic() + _LAST_TIMEOUT
        while self._sent and (left := deadline - time.monotonic()) > 0:
            try:
                message = self._events.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(message, tuple) and not isinstance(message[1], BaseException):
                self._follow(self._state.handle(self._translate(*message), time.monotonic()))

    def _stop(self) -> None:
        """Stop all children at once; nodes that do not answer in time are left to who closes the cluster."""
        if not self._names:
            return

        async def stop() -> None:
            await self._client.run(
                close_node, self._settings.token, False, workers=list(self._names), on_error="ignore", asynchronous=True
            )

        try:
            self._client.sync(stop, callback_timeout=_STOP_TIMEOUT)
        except (asyncio.TimeoutError, OSError):
            self._observer.warned(f"not every node stopped within {_STOP_TIMEOUT:g} s")
