"""Carries out what RunState decides, on a Dask client: opens nodes, sends leases, commits receipts, stops everything."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

from distributed import Client

from prefect_parallel_run.dispatch.autoscaler import Autoscaler
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    Event,
    Finish,
    GiveUp,
    Hold,
    Instruction,
    LeaseFinished,
    NodeLeft,
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
from prefect_parallel_run.dispatch.lease_transport import LOST, LeaseTransport, Message
from prefect_parallel_run.dispatch.node_pool import TICK, Nodes
from prefect_parallel_run.dispatch.node_setup import RemoteSetup
from prefect_parallel_run.dispatch.observer import Observer
from prefect_parallel_run.dispatch.row_transfer import RemoteFiles
from prefect_parallel_run.dispatch.script_logs import ScriptLogCollector
from prefect_parallel_run.dispatch.state import RunState
from prefect_parallel_run.errors import ComputeTargetError, EntryScriptError, LimitExceededError, OutputError, ParallelRunError
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.node import LeaseResult
from prefect_parallel_run.node.rpc import ready_topic, said_topic
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.runs.failures import first_failure
from prefect_parallel_run.runs.ledger import Ledger

_END_TIMEOUT = 5.0  #: s for the whole end, whatever nodes do not answer: a person who cancels waits for 10 s at most
_LAST_TIMEOUT = 1.0  #: s for what they have finished until then to come home
_LOGS_TIMEOUT = 3.0  #: s for the logs of nodes that have them at home


class PlanStream(Protocol):
    """A plan that is still being made."""

    def is_over(self) -> bool:
        """True once everything is planned; raises what went wrong with that."""

    def take(self) -> list[list[int]]:
        """Return the items of the mini-batches planned since the last call, in order, a list per group."""


class Dispatcher:
    """Drives one run on an open cluster.

    Args:
        client: Of the cluster.
        settings: What every node is told.
        plan, ledger, state: Of the run.
        observer: Who is told.
        check_cancelled: Called every TICK or so; raises to stop the run (it was cancelled, the lock was lost).
        discard: Called with the name of a worker that counts as lost although it is still there.
        wanted: Nodes used at most.
        growth: Of a plan that is not whole yet.
        prepared: Nodes that are named already, from ``node-0`` on.
        journey: None for nodes that are processes of this machine.
        elasticity: Of a cluster that can grow and shrink.
        orders: Called all the time; yields what a person has ordered since.
        check_rows: Called with committed receipts that succeeded; raises when their rows cannot stand in one result.
    """

    def __init__(
        self,
        client: Client,
        settings: NodeSettings,
        plan: PlanReader,
        ledger: Ledger,
        state: RunState,
        observer: Observer,
        check_cancelled: Callable[[], None],
        discard: Callable[[str], None],
        wanted: int,
        growth: PlanStream | None = None,
        prepared: int = 0,
        journey: RemoteSetup | None = None,
        elasticity: Autoscaler | None = None,
        orders: Callable[[], Iterable[Ordered]] = tuple,
        check_rows: Callable[[list[Receipt]], None] | None = None,
    ) -> None:
        self._client, self._settings = client, settings
        self._ledger, self._state, self._observer = ledger, state, observer
        self._check_cancelled, self._growth = check_cancelled, growth
        self._events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._hearing = hearing = ScriptLogCollector()
        report = self._events.put
        self._nodes = Nodes(
            client, settings, wanted, observer, check_cancelled, discard, report, prepared, journey, hearing.hear
        )
        self._elasticity = elasticity
        self._homecoming = RemoteFiles(client, settings.token, settings.run_directory)
        self._traffic = LeaseTransport(client, settings.token, plan, self._nodes, self._homecoming, report)
        self._orders, self._check_rows = orders, check_rows
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
            RowsDifferError: check_rows() found rows that do not fit those of another mini-batch.
        """
        self._client.subscribe_topic(ready_topic(self._settings.token), self._note_ready)
        self._client.subscribe_topic(said_topic(self._settings.token), lambda event: self._hearing.hear(event[1]))
        self._nodes.begin()
        end_by: float | None = None
        try:
            while not self._finished:
                self._nodes.look()
                self._give_back()
                self._traffic.resize_again()
                for event in chain(self._grow(), self._obey(), self._wait()):
                    self._follow(self._state.handle(event, time.monotonic()))
                self._observer.progressed(self._state.tally)
                self._tell_script_lines()
                self._check_cancelled()
            self._nodes.close()
        except BaseException:
            end_by = time.monotonic() + _END_TIMEOUT
            self._check_rows = None  # what comes home from now on is only committed
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

    def _event(self, message: Message) -> Event:
        if isinstance(message, tuple):
            return self._translate(*message)
        return self._forget(message.node) if isinstance(message, NodeLeft) else message

    def _translate(self, number: int, outcome: LeaseResult | BaseException) -> Event:
        """Return what the end of a lease means."""
        lease = self._traffic.lease(number)
        if lease is None:  # of a node that was lost meanwhile
            return Tick()
        if isinstance(outcome, BaseException):
            if getattr(outcome, "reason", "") == "scheduler-connection-lost":  # no mini-batch and no node is to blame
                raise ComputeTargetError("scheduler", "the connection to it was lost") from outcome
            if isinstance(outcome, LOST):
                return self._forget(lease.node)
            if isinstance(outcome, OSError):
                raise OutputError(self._settings.run_directory, f"node {lease.node}: {outcome}") from outcome
            raise outcome
        self._traffic.end(number)
        if outcome.failure is not None:
            self._start_failure = self._start_failure or outcome.failure
            self._observer.slot_failed(lease.node, outcome.failure)
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
        self._traffic.forget(node)
        return NodeLeft(node)

    # Instructions

    def _follow(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SubmitLease(lease):
                    self._traffic.submit(lease)
                case Recall(number, at_once):
                    self._traffic.recall(number, at_once=at_once)
                case Resize():
                    self._traffic.resize(instruction)
                case Commit(decided):
                    self._commit(decided)
                case CommitPiece():
                    self._ledger.commit_piece(instruction.receipt, instruction.piece, instruction.failed, instruction.state)
                    self._observer.isolated(instruction.receipt)
                    self._check([instruction.receipt])
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

    def _commit(self, decided: list[tuple[Receipt, str]]) -> None:
        decided = [(self._traffic.dated(receipt), state) for receipt, state in decided]
        self._ledger.commit(decided)
        self._observer.committed([receipt for receipt, _ in decided])
        for receipt, state in decided:
            if receipt.outcome != "succeeded":
                self._observer.tried(receipt, state)
            elif receipt.rows > receipt.items and not self._told_of_more_rows:
                self._told_of_more_rows = True
                words = f"run() returned {receipt.rows} rows for {receipt.items} items of mini-batch {receipt.mini_batch}"
                self._observer.warned(f"{words}; all are kept (this is told once)")
        self._check([receipt for receipt, _ in decided])

    def _check(self, receipts: list[Receipt]) -> None:
        if self._check_rows is not None and (succeeded := [receipt for receipt in receipts if receipt.outcome == "succeeded"]):
            self._check_rows(succeeded)

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
        while self._traffic.is_out and (left := deadline - time.monotonic()) > 0:
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
