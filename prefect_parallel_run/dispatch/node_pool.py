"""The nodes of a run as the flow process sees them: opens, tracks and closes them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any

from prefect_parallel_run._threads import CheckCancelled
from prefect_parallel_run.compute.base import Cluster
from prefect_parallel_run.dispatch.events import Event, NodeLeft, NodeOpened, NodesOpening, Tick
from prefect_parallel_run.dispatch.node_setup import NodeSetup, NodeSetups, NodeSpec, ReadyNode
from prefect_parallel_run.dispatch.workers import GONE, LiveWorkers, call_worker, host_of, select_workers
from prefect_parallel_run.errors import ComputeTargetError, EnvironmentSetupError, ParallelRunError
from prefect_parallel_run.node.log_files import LogBatch
from prefect_parallel_run.node.rpc import KEEP_ALIVE_INTERVAL, ShutdownReport, close_node, keep_node, remove_node
from prefect_parallel_run.runs import events

TICK = 0.25  #: s: longest time between two calls of check_cancelled
_STOP_TIMEOUT = 3.0  #: s for nodes to stop their children, or to delete their files, at the end of a run
_MISSING_PACKAGE = ("ModuleNotFoundError(", "ImportError(", "AttributeError(")  #: Dask's report that a worker lacks it
_MAX_ATTEMPTS = 5  #: attempts to open a node on one worker before it is excluded


class NodePool:
    """The workers that a run uses, and the nodes on them.

    *report* receives the events for RunState; *on_script_log* receives the last script logs of a node, on any thread;
    *check_cancelled* is called about every TICK while waiting for nodes.
    """

    def __init__(
        self,
        cluster: Cluster,
        spec: NodeSpec,
        emit: events.Emit,
        check_cancelled: CheckCancelled,
        report: Callable[[Event], None],
        on_script_log: Callable[[LogBatch], None] = lambda _: None,
    ) -> None:
        self._client, self._is_kept, self._max_nodes = cluster.client, spec.settings.node.is_kept, spec.at_most
        self._emit, self._check_cancelled, self._report = emit, check_cancelled, report
        self._forward_log = on_script_log
        self._workers = LiveWorkers(cluster.client, cluster.discard, lambda: report(Tick()))
        self._setups = NodeSetups(cluster, spec, lambda: report(Tick()))
        self.nodes: dict[str, ReadyNode] = {}  #: open nodes, by name
        self._names: dict[str, str] = {}  # their names, by address
        self._releasing: dict[str, Future[Any]] = {}  # calls that close nodes, by the name of the node
        self._attempts: Counter[str] = Counter()  # attempts to open a node, by address
        self._excluded: set[str] = set()  # addresses
        self._unresponsive: set[str] = set()  # addresses that did not answer at shutdown
        self._cancelled: list[str] = []  # addresses whose setup was cancelled at the end of the run
        self._has_nodes = False
        self._reported_opening = 0
        self._is_over = False
        self.token = spec.settings.token  #: identifies the run on the nodes

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of open nodes."""
        return list(self._names)

    def set_slots(self, count: int) -> None:
        """Set the number of slots for nodes that are opened from now on."""
        self._setups.set_slots(count)

    @property
    def keeping_rows(self) -> list[str]:
        """Return the addresses of responsive nodes whose rows and logs have to be fetched."""
        keeping = [node.address for node in self.nodes.values() if node.keeps_rows]
        return [address for address in keeping if address not in self._unresponsive]

    def start(self) -> None:
        """Start keep-alives to nodes on shared workers."""
        if self._is_kept:
            self._client.loop.add_callback(self._send_keep_alives)

    def poll(self) -> None:
        """Add opened nodes and, periodically, process the scheduler's list of workers; never waits.

        Raises:
            ComputeTargetError: The scheduler is lost, or one of the first workers cannot be used.
            EnvironmentSetupError: One of the first workers cannot build the environment.
            InputError, OutputError: One of the first workers cannot access a path.
        """
        for setup, outcome in self._setups.pop_ended():
            if isinstance(outcome, BaseException):
                self._handle_failure(setup, outcome)
            else:
                self._add(outcome)
        if (lost := self._workers.poll()) is not None:
            self._drop(lost)
            self._open_missing()
        if len(self._setups) != self._reported_opening:
            self._reported_opening = len(self._setups)
            self._report(NodesOpening(self._reported_opening))

    def forget(self, node: str) -> None:
        """Remove a lost node; its worker may be opened again under another name."""
        if (lost := self.nodes.pop(node, None)) is not None:
            del self._names[lost.address]

    def start_call(self, node: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a call of *function*, with the run's token and *arguments*, on an open node."""
        return self._start_call(self.nodes[node].address, function, *arguments)

    def _start_call(self, address: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return call_worker(self._client, address, function, self.token, *arguments)

    def close(self) -> None:
        """Close all nodes after shutdown() of the script; failures are only logged, since all results are committed."""
        for address in self._cancel_setups():
            self._start_call(address, close_node, False)  # not awaited: these are not needed any more
        for address, answer in self._close().items():
            if isinstance(answer, BaseException):
                self._emit(events.Warned(f"lost {self._names[address]} while it ran shutdown() of the entry script"))
                continue
            self._forward_logs(answer)
            for text in answer.problems:
                self._emit(events.Warned(f"shutdown() of the entry script failed:\n{text}"))

    def release(self, nodes: Collection[str]) -> None:
        """Start to close idle nodes, after shutdown() of the script; their workers are not used again."""
        for node in nodes:
            self._excluded.add(address := self.nodes[node].address)
            self._releasing[node] = self._start_call(address, close_node, True)

    def pop_released(self, fetch_logs: Callable[[Collection[str]], None]) -> list[str]:
        """Return the addresses of released nodes that are closed now; never waits for shutdown().

        *fetch_logs* is called with them.
        """
        ended = {node: call for node, call in self._releasing.items() if call.done()}
        addresses = [self.nodes[node].address for node in ended]
        if ended:
            for call in ended.values():
                self._forward_logs(_answer(call))
            fetch_logs(addresses)
            keeping = [address for address in self.keeping_rows if address in addresses]
            self._call_all(remove_node, keeping, time.monotonic() + _STOP_TIMEOUT)
        for node in ended:
            del self._releasing[node]
            self.forget(node)
            self._emit(events.NodeReleased(node))
        return addresses

    def stop(self, until: float) -> None:
        """Kill all children; nodes that do not answer before *until* (monotonic, s) are left to the cluster's shutdown."""
        everywhere = sorted({*self._names, *self._cancel_setups()})  # includes nodes that are being opened
        self._unresponsive = self._call_all(close_node, everywhere, min(until, time.monotonic() + _STOP_TIMEOUT), False)
        if self._unresponsive:
            self._emit(events.Warned(f"some nodes did not stop within {_STOP_TIMEOUT:g} s"))

    def remove(self, until: float) -> None:
        """Delete the local rows of nodes whose rows were fetched; the run is over."""
        self._is_over = True
        addresses = [address for address in [*self.keeping_rows, *self._cancelled] if address not in self._unresponsive]
        self._call_all(remove_node, addresses, min(until, time.monotonic() + _STOP_TIMEOUT))

    def _close(self) -> dict[str, Any]:
        """Close all nodes after shutdown() of the script; return their answers by address, as ``_answer`` does.

        Checks for cancellation while waiting. There is no time limit as long as a worker sends heartbeats.
        """
        calls = {
            address: self._releasing.get(node) or self._start_call(address, close_node, True)
            for address, node in self._names.items()
        }
        while not all(call.done() for call in calls.values()):
            wait_for(calls.values(), timeout=TICK)
            self._check_cancelled()
            for address in calls.keys() & (self._workers.poll() or []):
                calls[address].cancel()
        return {address: _answer(call) for address, call in calls.items()}

    def _forward_logs(self, answer: object) -> None:
        for batch in answer.said if isinstance(answer, ShutdownReport) else []:
            self._forward_log(batch)

    def _call_all(self, function: Callable[..., Any], addresses: list[str], until: float, *arguments: Any) -> set[str]:
        """Call a function on workers that may be lost; return those that did not answer in time."""
        if self._client.status != "running":  # the scheduler is gone
            return set(addresses)
        calls = {address: self._start_call(address, function, *arguments) for address in addresses}
        wait_for(calls.values(), timeout=max(until - time.monotonic(), 0.0))
        for call in calls.values():
            if call.done() and not call.cancelled() and call.exception() is None:
                self._forward_logs(call.result())
        return {address for address, call in calls.items() if not call.done()}

    async def _send_keep_alives(self) -> None:
        """Send keep-alives to nodes on shared workers.

        Runs on the client's loop, so that a blocked flow thread does not interrupt it.
        """
        while not self._is_over:
            for address in [*self._names, *self._setups]:
                self._start_call(address, keep_node)  # not awaited: it may not answer
            await asyncio.sleep(KEEP_ALIVE_INTERVAL)

    # Opening

    def _open_missing(self) -> None:
        """Start to open as many nodes as are missing; those being opened count as available."""
        taken = {*self._names, *self._setups}
        workers = self._workers.info
        free = {address: worker for address, worker in workers.items() if address not in taken | self._excluded}
        used = [host_of(workers[address]) for address in taken if address in workers]
        for address in select_workers(free, used, self._max_nodes - len(taken)):
            self._attempts[address] += 1
            self._setups.start(address, is_first=not self._has_nodes)

    def _add(self, node: ReadyNode) -> None:
        self.nodes[node.facts.node] = node
        self._names[node.address] = node.facts.node
        self._emit(events.NodeJoined(node.facts))
        self._report(NodeOpened(node.facts.node, node.facts.slots))
        if not self._has_nodes:
            self._has_nodes = True
            available = len(self._names) + len(self._setups)
            if available < self._max_nodes:
                message = f"starting with {available} of {self._max_nodes} nodes"
                self._emit(events.Warned(f"{message}; the rest join when they are available"))

    def _drop(self, lost: Collection[str]) -> None:
        for address in lost:
            if (setup := self._setups.cancel(address)) is not None:
                self._handle_failure(setup, OSError("the worker was lost"))
            elif (node := self._names.get(address)) in self._releasing:
                self._releasing[node].cancel()
            elif node is not None:
                self._report(NodeLeft(node))

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
        self._cancelled = [*self._setups]
        for address in self._cancelled:
            self._setups.cancel(address)
        return self._cancelled


def _answer(call: Future[Any]) -> Any:
    """Return the result of an ended call, or an exception for a lost or unresponsive worker."""
    return OSError("the worker was lost") if call.cancelled() else call.exception() or call.result()


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
