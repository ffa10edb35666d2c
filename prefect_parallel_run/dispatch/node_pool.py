"""The nodes of a run as the flow process sees them: finds, opens, tracks and closes them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

from distributed import Client

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.dispatch.events import Event, NodeJoined, NodeLeft, NodesOpening, Tick
from prefect_parallel_run.dispatch.node_setup import GONE, NodeSetup, NodeSetups, ReadyNode, RemoteSetup
from prefect_parallel_run.dispatch.workers import WorkerTracker, call_worker, select_workers
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, ParallelRunError
from prefect_parallel_run.node.log_tail import LogBatch
from prefect_parallel_run.node.rpc import NodeAccess, ShutdownReport, close_node, keep_node, remove_node
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.watchdog import EVERY
from prefect_parallel_run.runs import events

TICK = 0.25  #: s: longest time between two calls of check_cancelled
PATIENCE = 30.0  #: s without a heartbeat after which a node, or the scheduler, counts as lost
_QUERY_INTERVAL = 1.0  #: s between two queries of the scheduler
_STOP_TIMEOUT = 3.0  #: s for nodes to stop their children, or to delete their files, at the end of a run
_MISSING_PACKAGE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")  #: Dask's report that a worker lacks it
_MAX_ATTEMPTS = 5  #: attempts to open a node on one worker before it is excluded


class NodePool:
    """The workers that a run uses, and the nodes on them.

    Args:
        client: Dask client of the cluster.
        settings: Settings that every node receives.
        max_nodes: Largest number of nodes to use.
        emit: Receives the events of nodes.
        check_cancelled: Called about every TICK while waiting for nodes; raises to stop the run.
        discard: Called with the name of an unresponsive worker, to kill it.
        report: Receives events for RunState.
        prepared: Number of nodes that already have a name, from ``node-0`` on.
        remote_setup: What nodes on other machines need; None for processes of this machine.
        on_script_log: Receives the last script logs of a node, on any thread.
    """

    def __init__(
        self,
        client: Client,
        settings: NodeSettings,
        max_nodes: int,
        emit: events.Emit,
        check_cancelled: CheckCancelled,
        discard: Callable[[str], None],
        report: Callable[[Event], None],
        prepared: int = 0,
        remote_setup: RemoteSetup | None = None,
        on_script_log: Callable[[LogBatch], None] = lambda _: None,
    ) -> None:
        self._client, self._settings, self._max_nodes = client, settings, max_nodes
        self._emit, self._check_cancelled, self._discard, self._report = emit, check_cancelled, discard, report
        self._forward_log = on_script_log
        self._tracker = WorkerTracker(PATIENCE)
        self._workers: dict[str, Any] = {}  # the scheduler's information about live workers, by address
        self._names: dict[str, str] = {}  # names of open nodes, by address
        self._access: dict[str, NodeAccess] = {}  # how open nodes access files, by address
        self._setups = NodeSetups(client, settings, prepared, remote_setup, lambda: report(Tick()))
        self._attempts: Counter[str] = Counter()  # attempts to open a node, by address
        self._excluded: set[str] = set()  # addresses
        self._unresponsive: set[str] = set()  # addresses that did not answer at shutdown
        self._cancelled: list[str] = []  # addresses whose setup was cancelled at the end of the run
        self._has_nodes = False
        self._reported_opening = 0
        self._is_over = False
        self._query: Future[Any] | None = None  # pending query of the scheduler
        self._queried_at = 0.0
        self._next_query = 0.0

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of open nodes."""
        return list(self._names)

    def address_of(self, node: str) -> str:
        """Return the address of an open node."""
        return next(address for address, name in self._names.items() if name == node)

    def has(self, node: str) -> bool:
        """Return whether a node is open."""
        return node in self._names.values()

    def set_slots(self, count: int) -> None:
        """Set the number of slots for nodes that are opened from now on."""
        self._setups.set_slots(count)

    def keeps_rows(self, node: str) -> bool:
        """Return whether a node's rows have to be fetched."""
        access = self._access.get(self.address_of(node))
        return access is not None and access.rows_are_remote

    @property
    def keeping_rows(self) -> list[str]:
        """Return the addresses of responsive nodes whose rows and logs have to be fetched."""
        keeping = [address for address in self._names if address in self._access and self._access[address].rows_are_remote]
        return [address for address in keeping if address not in self._unresponsive]

    @property
    def opening(self) -> int:
        """Return the number of nodes that are being opened."""
        return len(self._setups)

    def start(self) -> None:
        """Start keep-alives to nodes on shared workers."""
        if self._settings.is_kept:
            self._client.loop.add_callback(self._send_keep_alives)

    def poll(self) -> None:
        """Add opened nodes and, periodically, process the scheduler's list of workers; never waits.

        Raises:
            ComputeTargetError: The scheduler is lost, or one of the first workers cannot be used.
            EnvironmentSetupError: One of the first workers cannot build the environment.
            InputError, OutputError: One of the first workers cannot access a path.
        """
        for setup, outcome in self._setups.pop_ended():
            self._add(setup, outcome)
        if (workers := self._poll_scheduler()) is not None:
            self._update_workers(workers, ())
            self._open_missing()
        if self.opening != self._reported_opening:
            self._reported_opening = self.opening
            self._report(NodesOpening(self.opening))

    def forget(self, node: str) -> None:
        """Remove a lost node; its worker may be opened again under another name."""
        for address in [address for address, name in self._names.items() if name == node]:
            del self._names[address]
            self._access.pop(address, None)

    def call(self, addresses: Collection[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call *function* on workers and return their results; a lost or unresponsive worker yields an exception.

        Checks for cancellation while waiting. There is no time limit as long as a worker sends heartbeats.
        """
        calls = {address: call_worker(self._client, address, function, *arguments) for address in addresses}
        while not all(call.done() for call in calls.values()):
            wait_for(calls.values(), timeout=TICK)
            self._check_cancelled()
            if (workers := self._poll_scheduler()) is not None:
                for address in self._update_workers(workers, calls):
                    calls[address].cancel()
        lost = OSError("the worker was lost")
        return {address: lost if call.cancelled() else call.exception() or call.result() for address, call in calls.items()}

    def close(self) -> None:
        """Close all nodes after shutdown() of the script; failures are only logged, since all results are committed."""
        for address in self._cancel_setups():  # not awaited: they are not needed any more
            call_worker(self._client, address, close_node, self._settings.token, False)
        for address, answer in self.call(self.addresses, close_node, self._settings.token, True).items():
            if isinstance(answer, BaseException):
                self._emit(events.Warned(f"lost {self._names[address]} while it ran shutdown() of the entry script"))
                continue
            self._forward_logs(answer)
            for text in answer.problems:
                self._emit(events.Warned(f"shutdown() of the entry script failed:\n{text}"))

    def release(self, nodes: Collection[str], fetch_logs: Callable[[Collection[str]], None]) -> None:
        """Close idle nodes after shutdown() of the script; their workers are not used again.

        Args:
            nodes: Names of nodes without a lease.
            fetch_logs: Called with their addresses once they are closed.
        """
        addresses = [self.address_of(node) for node in nodes]
        keeping = [address for address in self.keeping_rows if address in addresses]
        for answer in self.call(addresses, close_node, self._settings.token, True).values():
            self._forward_logs(answer)
        fetch_logs(addresses)
        self._call_all(remove_node, keeping, time.monotonic() + _STOP_TIMEOUT)
        self._excluded.update(addresses)
        for node in nodes:
            self.forget(node)
            self._emit(events.NodeReleased(node))

    def stop(self, until: float) -> None:
        """Kill all children; nodes that do not answer in time are left to the cluster's shutdown.

        Args:
            until: Monotonic time by which the shutdown must end.
        """
        everywhere = sorted({*self._names, *self._cancel_setups()})  # includes nodes that are being opened
        self._unresponsive = self._call_all(close_node, everywhere, min(until, time.monotonic() + _STOP_TIMEOUT), False)
        if self._unresponsive:
            self._emit(events.Warned(f"some nodes did not stop within {_STOP_TIMEOUT:g} s"))

    def remove(self, until: float) -> None:
        """Delete the local rows of nodes whose rows were fetched; the run is over."""
        self._is_over = True
        addresses = [address for address in [*self.keeping_rows, *self._cancelled] if address not in self._unresponsive]
        self._call_all(remove_node, addresses, min(until, time.monotonic() + _STOP_TIMEOUT))

    def _forward_logs(self, answer: object) -> None:
        for batch in answer.said if isinstance(answer, ShutdownReport) else []:
            self._forward_log(batch)

    def _call_all(self, function: Callable[..., Any], addresses: list[str], until: float, *arguments: Any) -> set[str]:
        """Call a function with the token on workers that may be lost; return those that did not answer in time."""
        if self._client.status != "running":  # the scheduler is gone
            return set(addresses)
        calls = {
            address: call_worker(self._client, address, function, self._settings.token, *arguments) for address in addresses
        }
        wait_for(calls.values(), timeout=max(until - time.monotonic(), 0.0))
        for call in calls.values():
            if call.done() and not call.cancelled() and call.exception() is None:
                self._forward_logs(call.result())
        return {address for address, call in calls.items() if not call.done()}

    # Workers

    def _poll_scheduler(self) -> dict[str, Any] | None:
        """Return the scheduler's information about its workers, by address; None until it answers a query.

        Never waits: if the scheduler is slow, the run continues with its current nodes.
        """
        now = time.monotonic()
        if self._query is None:
            if now >= self._next_query:
                self._ask_scheduler(now)
            return None
        if not self._query.done():
            if now - self._queried_at > PATIENCE:
                self._query.cancel()
                raise ComputeTargetError("scheduler", f"no answer for {PATIENCE:g} s")
            return None
        answered, self._query = self._query, None
        self._next_query = now + _QUERY_INTERVAL
        try:
            workers: dict[str, Any] = answered.result()["workers"]
        except GONE as error:
            raise ComputeTargetError("scheduler", f"no answer: {error or type(error).__name__}") from error
        return workers

    def _ask_scheduler(self, now: float) -> None:
        scheduler = self._client.scheduler
        if scheduler is None:  # the client closed because it lost its scheduler
            raise ComputeTargetError("scheduler", "lost the connection to it")
        loop = self._client.loop.asyncio_loop
        self._query, self._queried_at = asyncio.run_coroutine_threadsafe(scheduler.identity(), loop), now
        self._query.add_done_callback(lambda _: self._report(Tick()))  # wakes the dispatcher

    def _update_workers(self, workers: dict[str, Any], being_called: Collection[str]) -> list[str]:
        """Update the workers; return the lost ones among *being_called*, whose nodes the caller handles."""
        heartbeats = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        changes = self._tracker.update(heartbeats, time.monotonic())
        lost = [*changes.gone, *changes.silent]
        self._workers = {address: workers[address] for address in {*self._workers, *changes.new}.difference(lost)}
        for address in lost:
            if (setup := self._setups.cancel(address)) is not None:
                self._handle_failure(setup, OSError("the worker was lost"))
            elif address in self._names and address not in being_called:
                self._report(NodeLeft(self._names[address]))
        for address in changes.silent:
            self._discard(str(workers[address]["name"]))
        return [address for address in lost if address in being_called]

    async def _send_keep_alives(self) -> None:
        """Send keep-alives to nodes on shared workers.

        Runs on the client's loop, so that a blocked flow thread does not interrupt it.
        """
        while not self._is_over:
            for address in [*self._names, *self._setups.addresses]:
                call_worker(self._client, address, keep_node, self._settings.token)  # not awaited: it may not answer
            await asyncio.sleep(EVERY)

    # Opening

    def _open_missing(self) -> None:
        """Start to open as many nodes as are missing; those being opened count as available."""
        free = {
            address: worker
            for address, worker in self._workers.items()
            if address not in self._names and address not in self._setups and address not in self._excluded
        }
        taken = [address for address in [*self._names, *self._setups.addresses] if address in self._workers]
        used = [str(self._workers[address].get("host", "")) for address in taken]
        for address in select_workers(free, used, self._max_nodes - len(self._names) - len(self._setups)):
            self._attempts[address] += 1
            self._setups.start(address, is_first=not self._has_nodes)

    def _add(self, setup: NodeSetup, outcome: ReadyNode | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._handle_failure(setup, outcome)
            return
        self._names[setup.address] = outcome.facts.node
        if outcome.access is not None:
            self._access[setup.address] = outcome.access
        self._emit(events.NodeJoined(outcome.facts))
        self._report(NodeJoined(outcome.facts.node, outcome.facts.slots))
        if not self._has_nodes:
            self._has_nodes = True
            available = len(self._names) + len(self._setups)
            if available < self._max_nodes:
                message = f"starting with {available} of {self._max_nodes} nodes"
                self._emit(events.Warned(f"{message}; the rest join when they are available"))

    def _handle_failure(self, setup: NodeSetup, error: BaseException) -> None:
        """Handle a worker that cannot be used: raise if it is one of the first, otherwise log a warning."""
        address = setup.address
        is_gone = isinstance(error, GONE) and not isinstance(error, FileNotFoundError | PermissionError)
        if is_gone and self._attempts[address] < _MAX_ATTEMPTS:  # or unresponsive; try again
            return
        problem = _worker_error(address, error)
        if setup.is_first and not is_gone:
            raise problem
        self._excluded.add(address)
        self._emit(events.Warned(f"ignoring worker {address}: {problem}"))

    def _cancel_setups(self) -> list[str]:
        """Cancel all setups and return their addresses."""
        self._cancelled = self._setups.addresses
        for address in self._cancelled:
            self._setups.cancel(address)
        return self._cancelled


def _worker_error(address: str, error: BaseException) -> BaseException:
    """Return an error that names the worker it occurred on."""
    if isinstance(error, EnvironmentSetupError):
        return EnvironmentSetupError(error.environment, f"on node {address}: {error.reason}")
    if isinstance(error, ParallelRunError):
        return error
    if isinstance(error, ImportError | AttributeError) or str(error).startswith(_MISSING_PACKAGE):
        message = f"worker {address} cannot import prefect_parallel_run; install the flow process's version there"
        return ComputeTargetError(address, f"{message}: {type(error).__name__}: {error}")
    if isinstance(error, GONE):
        return ComputeTargetError(address, f"cannot open a node there: {type(error).__name__}: {error}")
    return error
