"""Carries out the decisions of RunState on a Dask client: opens nodes, sends leases, commits receipts, stops nodes."""

from __future__ import annotations

import asyncio
import json
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run._units import count
from prefect_parallel_run.compute.base import Cluster
from prefect_parallel_run.dispatch.autoscaler import Autoscaler
from prefect_parallel_run.dispatch.events import (
    Abort,
    Commit,
    CommitPiece,
    ControlCommand,
    Event,
    Finish,
    GiveUp,
    Instruction,
    LeaseFinished,
    NodeLeft,
    PauseScheduling,
    PlanEnded,
    PlanGrew,
    ProcessesChanged,
    Recall,
    Resize,
    ResumeScheduling,
    SlotReady,
    SlotUnusable,
    SubmitLease,
    Tick,
)
from prefect_parallel_run.dispatch.node_pool import TICK, NodePool
from prefect_parallel_run.dispatch.node_setup import NodeSpec
from prefect_parallel_run.dispatch.state import RunState
from prefect_parallel_run.dispatch.transport import LOST, LeaseTransport, Message, RemoteFiles, ScriptLogCollector
from prefect_parallel_run.errors import ComputeTargetError, LimitExceededError, OutputError, ParallelRunError
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.node.child_startup import StartFailure
from prefect_parallel_run.node.node import LeaseResult
from prefect_parallel_run.node.rpc import script_log_topic, slot_topic
from prefect_parallel_run.planning.plan import PlanReader
from prefect_parallel_run.planning.planner import Planner
from prefect_parallel_run.runs import events
from prefect_parallel_run.runs.failures import first_failure
from prefect_parallel_run.runs.ledger import Ledger

_SHUTDOWN_TIMEOUT = 5.0  #: s for the whole shutdown, even if nodes do not answer: a user who cancels waits at most 10 s
_DRAIN_TIMEOUT = 1.0  #: s to receive what the leases finished before they were stopped
_LOGS_TIMEOUT = 3.0  #: s to fetch the logs of nodes that keep them locally


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchInputs:
    """The parts of a run: its mini-batches, their records, and the decisions about them."""

    plan: PlanReader
    ledger: Ledger
    state: RunState
    planner: Planner | None = None  #: plans further mini-batches of a plan that is not complete yet
    commands: Callable[[], Iterable[ControlCommand]] = tuple  #: polled every tick; yields new control commands
    check_rows: Callable[[list[Receipt]], None] | None = None  #: given committed receipts, raises if their rows differ


class Dispatcher:
    """Executes one run on an open cluster; without *autoscaler*, on a fixed number of nodes.

    *check_cancelled* is called about every TICK; it raises to stop the run (it was cancelled, the lock was lost).
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: NodeSpec,
        inputs: DispatchInputs,
        emit: events.Emit,
        check_cancelled: CheckCancelled,
        autoscaler: Autoscaler | None = None,
    ) -> None:
        self._client, self._settings = cluster.client, nodes.settings
        self._ledger, self._state, self._emit = inputs.ledger, inputs.state, emit
        self._planner, self._commands, self._check_rows = inputs.planner, inputs.commands, inputs.check_rows
        self._check_cancelled, self._autoscaler = check_cancelled, autoscaler
        self._events: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._script_logs = ScriptLogCollector()
        self._nodes = NodePool(cluster, nodes, emit, check_cancelled, self._events.put, self._script_logs.add)
        self._remote_files = RemoteFiles(self._client, self._nodes.token, self._settings.run.directory)
        self._transport = LeaseTransport(self._client, inputs.plan, self._nodes, self._remote_files, self._events.put)
        self._lost_nodes: set[str] = set()  # nodes that were reported as lost
        self._start_failure: StartFailure | None = None
        self._finished = False
        self._warned_of_more_rows = False

    def run(self) -> None:
        """Run until every mini-batch has its final outcome.

        Raises:
            LimitExceededError: A failure limit is exceeded.
            EntryScriptError: No process on any node can start the script.
            ComputeTargetError: All nodes were lost.
            OutputError: The run directory cannot be written.
            RowsDifferError: The rows of two mini-batches do not fit into one result.
        """
        topics: dict[str, Callable[[tuple[float, dict[str, Any]]], None]] = {
            slot_topic(self._nodes.token): self._report_slot,
            script_log_topic(self._nodes.token): lambda event: self._script_logs.add(event[1]),
        }  # called on the client's thread
        for topic, handler in topics.items():
            self._client.subscribe_topic(topic, handler)
        self._nodes.start()
        end_by: float | None = None
        try:
            while not self._finished:
                self._step()
            self._nodes.close()
        except BaseException:
            end_by = time.monotonic() + _SHUTDOWN_TIMEOUT
            self._check_rows = None  # receipts that arrive from now on are only committed
            self._nodes.stop(end_by)
            with suppress(ParallelRunError):  # the original error wins
                self._drain_results(end_by)
            raise
        finally:
            end_by = end_by or time.monotonic() + _SHUTDOWN_TIMEOUT
            self._fetch_logs(self._nodes.addresses, end_by)
            self._nodes.remove(end_by)
            for topic in topics if self._client.status == "running" else ():
                self._client.unsubscribe_topic(topic)
            self._forward_script_logs()
            if self._script_logs.left_out:
                self._emit(events.ScriptLinesDropped(self._script_logs.left_out))

    def _report_slot(self, event: tuple[float, dict[str, Any]]) -> None:
        """Queue the event of a slot; newer schedulers add the key ``worker`` to it."""
        node, slots, failure, as_of = (event[1][key] for key in ("node", "slots", "failure", "as_of"))
        failure = json.loads(failure)
        self._events.put(SlotUnusable(node, slots, StartFailure(*failure), as_of) if failure else SlotReady(node, as_of))

    def _step(self) -> None:
        self._nodes.poll()
        self._scale()
        self._transport.retry_resizes()
        for event in chain(self._read_plan(), self._read_commands(), self._wait_for_events()):
            self._carry_out(self._state.handle(event, time.monotonic()))
        self._emit(events.Progressed(self._state.tally))
        self._forward_script_logs()
        self._check_cancelled()

    # Events

    def _read_plan(self) -> Iterator[Event]:
        """Yield newly planned mini-batches once they are in the ledger."""
        if self._planner is None:
            return
        is_over = self._planner.is_over()  # checked first: take() then returns the complete rest
        for items in self._planner.take():
            self._ledger.extend(items)
            yield PlanGrew(items)
        if is_over:
            self._planner = None
            yield PlanEnded()

    def _read_commands(self) -> Iterator[Event]:
        for command in self._commands():
            if isinstance(command, ProcessesChanged):
                self._nodes.set_slots(command.count)
            yield command

    def _wait_for_events(self) -> Iterator[Event]:
        """Yield pending events, waiting at most one tick.

        Each event is handled before the next is read: receipts of a lease are not held longer than necessary, and a node is
        forgotten here exactly when the state learns that it is lost, so that nothing is sent to it in between.
        """
        due = self._state.next_due
        timeout = TICK if due is None else min(TICK, max(due - time.monotonic(), 0.0))
        try:
            message = self._events.get(timeout=timeout) if timeout > 0 else self._events.get_nowait()
        except queue.Empty:
            yield Tick()
            return
        arrived = self._events.qsize()  # later events wait until check_cancelled was called
        yield self._event(message)
        for _ in range(arrived):  # read singly: if the run ends here, the rest stays in the queue and is drained later
            yield self._event(self._events.get_nowait())

    def _event(self, message: Message) -> Event:
        if isinstance(message, tuple):
            return self._lease_event(*message)
        if isinstance(message, SlotUnusable):
            self._start_failure = self._start_failure or message.failure
            self._emit(events.SlotFailed(message.node, message.failure))
        return self._forget(message.node) if isinstance(message, NodeLeft) else message

    def _lease_event(self, number: int, outcome: LeaseResult | BaseException) -> Event:
        """Return the event for a lease that ended.

        Raises:
            ComputeTargetError: The connection to the scheduler was lost.
            OutputError: The node could not write to its disk.
        """
        lease = self._transport.lease(number)
        if lease is None:  # its node was lost meanwhile
            return Tick()
        if isinstance(outcome, BaseException):
            if getattr(outcome, "reason", "") == "scheduler-connection-lost":  # neither a mini-batch nor a node is at fault
                raise ComputeTargetError("scheduler", "lost the connection to it") from outcome
            if isinstance(outcome, LOST):
                return self._forget(lease.node)
            if isinstance(outcome, OSError):
                raise OutputError(self._settings.run.directory, f"node {lease.node}: {outcome}") from outcome
            raise outcome
        self._transport.complete(number)
        self._start_failure = self._start_failure or outcome.failure
        return LeaseFinished(number, outcome.receipts, outcome.slots, outcome.as_of)

    def _scale(self) -> None:
        if self._autoscaler is None:
            return
        if closed := self._nodes.pop_released(lambda nodes: self._fetch_logs(nodes, time.monotonic() + _LOGS_TIMEOUT)):
            self._autoscaler.release(closed)
        if self._state.is_paused:  # idle nodes and waiting work say nothing about demand then
            return
        released = self._autoscaler.step(time.monotonic(), self._state.demand)
        for node in released:  # first, so that nothing more is sent there
            self._carry_out(self._state.handle(NodeLeft(node), time.monotonic()))
        self._nodes.release(released)

    def _forward_script_logs(self) -> None:
        for line in self._script_logs.pop_all():
            self._emit(line)

    def _forget(self, node: str) -> NodeLeft:
        self._nodes.forget(node)
        if node not in self._lost_nodes:  # both its leases and the scheduler may report it
            self._lost_nodes.add(node)
            self._emit(events.NodeLost(node))
        self._transport.forget(node)
        return NodeLeft(node)

    # Instructions

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SubmitLease(lease):
                    self._transport.submit(lease)
                case Recall(number, at_once):
                    self._transport.recall(number, at_once=at_once)
                case Resize():
                    self._transport.resize(instruction)
                case Commit(decided):
                    self._commit(decided)
                case CommitPiece():
                    self._ledger.commit_piece(instruction.receipt, instruction.piece, instruction.failed, instruction.state)
                    self._emit(events.PieceFinished(instruction.receipt))
                    self._check([instruction.receipt])
                case PauseScheduling(breach):
                    self._emit(events.SchedulingPaused(breach))
                case ResumeScheduling():
                    self._emit(events.SchedulingResumed())
                case Abort(breach):
                    raise LimitExceededError(*breach, self._settings.run.directory, first_failure(self._ledger))
                case GiveUp(slots_failed):
                    raise self._no_slots_error(slots_failed)
                case Finish():
                    self._finished = True

    def _commit(self, decided: list[tuple[Receipt, str]]) -> None:
        decided = [(self._transport.dated(receipt), state) for receipt, state in decided]
        self._ledger.commit(decided)
        self._emit(events.ReceiptsCommitted([receipt for receipt, _ in decided]))
        for receipt, state in decided:
            if receipt.outcome != Outcome.SUCCEEDED:
                self._emit(events.AttemptFailed(receipt, state))
            elif receipt.rows > receipt.items and not self._warned_of_more_rows:
                self._warned_of_more_rows = True
                rows, items = count(receipt.rows, "row"), count(receipt.items, "item")
                message = f"run() returned {rows} for {items} of mini-batch {receipt.mini_batch}"
                self._emit(events.Warned(f"{message}; keeping all rows (shown once)"))
        self._check([receipt for receipt, _ in decided])

    def _check(self, receipts: list[Receipt]) -> None:
        succeeded = [receipt for receipt in receipts if receipt.outcome == Outcome.SUCCEEDED]
        if self._check_rows is not None and succeeded:
            self._check_rows(succeeded)

    # Ends

    def _no_slots_error(self, slots_failed: bool) -> Exception:
        failure = self._start_failure
        if slots_failed and failure is not None:
            return failure.as_error(self._settings.script.path)
        return ComputeTargetError("cluster", "all nodes were lost and no new node joined")

    def _drain_results(self, end_by: float) -> None:
        """Commit what stopped leases had finished, so that a resumed run does not repeat it."""
        self._state.stop()
        deadline = min(end_by, time.monotonic() + _DRAIN_TIMEOUT)
        while self._transport.has_leases and (remaining := deadline - time.monotonic()) > 0:
            try:
                message = self._events.get(timeout=remaining)
            except queue.Empty:
                return
            if isinstance(message, tuple) and not isinstance(message[1], BaseException):
                self._carry_out(self._state.handle(self._lease_event(*message), time.monotonic()))

    def _fetch_logs(self, addresses: Collection[str], end_by: float) -> None:
        """Fetch the logs that nodes keep locally, as time allows."""
        addresses = [address for address in self._nodes.keeping_rows if address in addresses]

        async def fetch() -> None:
            await asyncio.gather(*(self._remote_files.fetch_logs(address) for address in addresses))

        if addresses and self._client.status == "running":
            try:
                timeout = min(_LOGS_TIMEOUT, max(end_by - time.monotonic(), 0.1))
                self._client.sync(fetch, callback_timeout=timeout)
            except (asyncio.TimeoutError, asyncio.CancelledError, OSError) as error:
                self._emit(events.Warned(f"some node logs could not be fetched: {type(error).__name__}: {error}"))
