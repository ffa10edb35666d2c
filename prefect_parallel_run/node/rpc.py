"""Functions that Dask calls on a worker, and the open nodes of the worker, by the run's token.

All of them are called through ``Client.run``, except ``run_lease``, which is a Dask task. Dask passes *dask_worker*.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from distributed import get_worker, secede

from prefect_parallel_run.environments import EnvironmentPlan, interpreter_of
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.environments import built_interpreter, cache_folder
from prefect_parallel_run.node.log_files import LogBatch
from prefect_parallel_run.node.node import LeaseResult, Node
from prefect_parallel_run.node.remote_setup import Incoming, PreflightRequest, PreflightResult, run_checks, unpacked
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.node.slot_pool import Resized, SlotReport

KEEP_ALIVE_INTERVAL = 5.0  #: s between two keep-alives of a flow process
_PATIENCE = 40.0  #: s without a keep-alive after which a node is closed: workers of a shared cluster outlive the step
_POLL_INTERVAL = 1.0  #: s


class NodeAccess(NamedTuple):
    """How a node exchanges files that it does not share with the flow process."""

    rows_are_remote: bool  #: the flow process fetches rows and logs from the node
    bundled: bool  #: the script is taken from the code archive


class ShutdownReport(NamedTuple):
    """The answer of a node that is closed."""

    problems: list[str]  #: errors in the scripts' shutdown()
    said: list[LogBatch]  #: the scripts' latest log lines; some of them were published before


class NodeClosedError(RuntimeError):
    """A message was sent to a worker where its run has no open node."""


class Watchdog:
    """Calls *on_timeout*, once and on a thread of its own, after *patience* seconds without ``reset``."""

    def __init__(self, on_timeout: Callable[[], None], patience: float = _PATIENCE) -> None:
        self._on_timeout, self._patience = on_timeout, patience
        self._last_reset = time.monotonic()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="keep-node", daemon=True).start()

    def reset(self) -> None:
        """Record a keep-alive."""
        self._last_reset = time.monotonic()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(_POLL_INTERVAL, self._patience / 4)):
            if time.monotonic() - self._last_reset > self._patience:
                self._on_timeout()
                return


class _Open(NamedTuple):
    node: Node
    watchdog: Watchdog | None
    secedes: bool  #: leases release their worker thread: the worker has few threads for the node's leases


class _Arriving(NamedTuple):
    incoming: Incoming
    watchdog: Watchdog


class _Runs:
    """The runs on one Dask worker, by token."""

    def __init__(self) -> None:
        self.open: dict[str, _Open] = {}
        self.over: defaultdict[str, threading.Event] = defaultdict(threading.Event)  # set once the run has ended here
        self.arriving: dict[str, _Arriving] = {}  # code archives being received


_workers: WeakKeyDictionary[Any, _Runs] = WeakKeyDictionary()  # several workers may share a process
_begun: set[str] = set()  # tokens of runs that have opened their nodes: settings that arrive later prepare nothing
_prepared: dict[str, Node] = {}  # nodes that no run has opened yet
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by token: one caller opens, the others wait
_registry_lock = threading.Lock()  # held briefly: a node is closed either by close_node or by the call that opened it


def prepare_node(settings: NodeSettings) -> None:
    """Start the slots of a run before this worker joins its scheduler; the run opens the node later."""
    with _locks[settings.token]:
        if settings.token not in _prepared and settings.token not in _begun:
            _prepared[settings.token] = start_node(settings, None, threading.Event())


async def check_node(probe: PreflightRequest, dask_worker: Any) -> PreflightResult:
    """Run the preflight checks on this machine.

    Raises:
        ComputeTargetError: The machine has no usable cache folder.
    """
    with _wrap_os_errors(dask_worker):
        return await asyncio.to_thread(run_checks, probe)


async def receive_bundle(token: str, sha256: str, offset: int, data: bytes, is_last: bool, dask_worker: Any) -> None:
    """Receive the next piece of a code archive; unpack the archive after the last one.

    The received pieces are discarded when neither another piece nor a keep-alive of the flow process arrives.

    Raises:
        BundleRefusedError: The archive is incomplete, damaged or unsafe.
        ComputeTargetError: The disk refuses it.
    """
    runs = _runs_on(dask_worker)
    with _wrap_os_errors(dask_worker):
        if (arriving := runs.arriving.get(token)) is None:
            incoming = Incoming(cache_folder(), sha256)
            watchdog = Watchdog(lambda: dask_worker.loop.add_callback(_discard_archive, runs, token, incoming))
            arriving = runs.arriving[token] = _Arriving(incoming, watchdog)
        arriving.watchdog.reset()
        try:
            arriving.incoming.write(offset, data)
            if is_last:
                arriving.watchdog.stop()
                del runs.arriving[token]
                with arriving.incoming:
                    await asyncio.to_thread(arriving.incoming.unpack)
        except BaseException:
            _discard_archive(runs, token, arriving.incoming)
            raise


async def open_node(settings: NodeSettings, access: NodeAccess | None, dask_worker: Any) -> NodeFacts:
    """Start the slots of a run on this Dask worker, and return while the children start.

    A prepared node keeps its name. Without *access*, the node shares all files with the flow process.

    Raises:
        EnvironmentSetupError: The interpreter does not exist, or the environment cannot be built.
        ComputeTargetError: The disk refuses the node's files, or the run has ended.
    """
    token = settings.token
    over = _runs_on(dask_worker).over[token]
    with _wrap_os_errors(dask_worker):
        adapted = _with_access(settings, access)
        node = await asyncio.to_thread(_open_once, dask_worker, adapted, int(dask_worker.state.nthreads), over)

    def report_slot(report: SlotReport) -> None:
        failure = json.dumps(report.failure)  # the msgpack of Dask refuses lone surrogates
        message = {"node": node.settings.node.name, "as_of": report.as_of, "slots": report.slots, "failure": failure}
        dask_worker.log_event(slot_topic(token), message)

    node.slots.on_report(report_slot)
    node.log.on_script_log(lambda batch: dask_worker.log_event(script_log_topic(token), batch))
    return node.facts


def slot_topic(token: str) -> str:
    """Return the topic of the Dask events that report a slot as ready for its first mini-batch, or as unusable."""
    return f"parallel-run-slot-{token}"


def script_log_topic(token: str) -> str:
    """Return the topic of the Dask events that carry the scripts' log lines."""
    return f"parallel-run-said-{token}"


def run_lease(
    token: str, lease: int, start: int, attempt: int, works: bytes, piece: tuple[int, int] | None = None
) -> LeaseResult:
    """Run the mini-batches of one lease, as a Dask task.

    Args:
        token: Identifies the execution of the run that the lease belongs to.
        lease: Number of the lease.
        start: Number of its first mini-batch; the others follow.
        attempt: Number of the attempt, for all of them.
        works: The ``work`` values of the plan, one per line.
        piece: Only these items (half-open range) of the one mini-batch.
    """
    entry = _open_entry(get_worker(), token)  # a worker that was restarted under the same address has no node
    if entry.secedes:
        secede()
    return entry.node.run(lease, [Work.of(index, attempt, work, piece) for index, work in enumerate(works.split(b"\n"), start)])


async def recall_lease(token: str, lease: int, at_once: bool, dask_worker: Any) -> int | None:
    """Recall the mini-batches of a lease that have not started; with *at_once*, the running one too; see ``Node.recall``."""
    entry = _runs_on(dask_worker).open.get(token)
    answer = entry.node.recall(lease, at_once=at_once) if entry is not None else None
    if answer is None:
        return None
    return await asyncio.wrap_future(answer)


async def resize_node(token: str, slots: int, number: int, dask_worker: Any) -> Resized:
    """Start more slots on this node, or retire some; see ``Node.resize``."""
    entry = _open_entry(dask_worker, token)
    # From now on leases release their threads: the leases before this occupy all but one of them at most.
    _runs_on(dask_worker).open[token] = entry._replace(secedes=True)
    return await asyncio.to_thread(entry.node.resize, slots, number)


def keep_node(token: str, dask_worker: Any) -> None:
    """Receive a keep-alive of the flow process."""
    runs = _runs_on(dask_worker)
    entries: tuple[_Arriving | _Open | None, ...] = (runs.arriving.get(token), runs.open.get(token))
    for entry in entries:
        if entry is not None and entry.watchdog is not None:
            entry.watchdog.reset()


async def read_file(token: str, folder: str, name: str, offset: int, length: int, dask_worker: Any) -> bytes:
    """Return bytes of a part or a log that is on the node's own disk."""
    return await asyncio.to_thread(_open_entry(dask_worker, token).node.read, folder, name, offset, length)


def list_logs(token: str, dask_worker: Any) -> dict[str, int]:
    """Return the size of every log, bytes by name."""
    entry = _runs_on(dask_worker).open.get(token)
    return {} if entry is None else entry.node.logs()


async def close_node(token: str, graceful: bool, dask_worker: Any) -> ShutdownReport:
    """End the run on this node; return the scripts' shutdown() errors and latest log lines.

    A node with rows on its own disk keeps them until ``remove_node``.
    """
    runs = _runs_on(dask_worker)
    with _registry_lock:
        runs.over[token].set()
        entry = runs.open.get(token)
    _discard_archive(runs, token)
    if entry is None:
        return ShutdownReport([], [])
    problems = await asyncio.to_thread(entry.node.close, graceful=graceful)
    if not entry.node.settings.node.rows_are_remote:
        _remove_entry(runs, token)
    return ShutdownReport(problems, entry.node.log.recent_logs())


async def remove_node(token: str, dask_worker: Any) -> None:
    """Remove the files that ``close_node`` has left."""
    if (entry := _remove_entry(_runs_on(dask_worker), token)) is not None:
        await asyncio.to_thread(entry.node.remove)


def _runs_on(dask_worker: Any) -> _Runs:
    return _workers.setdefault(dask_worker, _Runs())


def _open_entry(dask_worker: Any, token: str) -> _Open:
    entry = _runs_on(dask_worker).open.get(token)
    if entry is None:
        raise NodeClosedError(token)
    return entry


def _with_access(settings: NodeSettings, access: NodeAccess | None) -> NodeSettings:
    """Return *settings* with the paths that fit *access*."""
    if access is None:
        return settings
    bundle = settings.script.bundle
    if access.bundled and bundle is not None:
        folder = unpacked(cache_folder(), bundle.sha256)
        if folder is None:
            raise FileNotFoundError(f"the unpacked code archive {bundle.sha256} was removed from this node's cache")
        script = replace(settings.script, source=str(folder / bundle.source), path=str(folder / bundle.script))
        settings = replace(settings, script=script)
    return settings.with_node(rows_are_remote=access.rows_are_remote)


@contextmanager
def _wrap_os_errors(dask_worker: Any) -> Iterator[None]:
    """Raise an OSError of this machine as ComputeTargetError: Dask would report it as a lost connection."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename and error.strerror else str(error)
        raise ComputeTargetError(dask_worker.address, f"the node (host {socket.gethostname()}) failed: {reason}") from error


def _discard_archive(runs: _Runs, token: str, only: Incoming | None = None) -> None:
    """Discard a partly received code archive and its file."""
    arriving = runs.arriving.get(token)
    if arriving is not None and only in (None, arriving.incoming):
        del runs.arriving[token]
        arriving.watchdog.stop()
        arriving.incoming.close()


def _open_once(dask_worker: Any, settings: NodeSettings, threads: int, over: threading.Event) -> Node:
    """Return the run's only node on this worker.

    A flow process that missed the answer may ask twice, and its run may end while the node is being created.
    """
    token, runs, is_kept = settings.token, _runs_on(dask_worker), settings.node.is_kept
    with _locks[token]:
        _begun.add(token)
        if (node := _prepared.pop(token, None)) is None:
            _close_abandoned(runs, token)  # the flow process lost contact with this node: its work is void
            node = start_node(settings, threads if is_kept else None, over)
        watchdog = Watchdog(lambda: _close_abandoned(runs, token, node)) if is_kept else None
        with _registry_lock:
            if not over.is_set():
                runs.open[token] = _Open(node, watchdog, secedes=threads <= 2 * node.facts.slots)
                return node
    if watchdog is not None:
        watchdog.stop()
    node.close(graceful=False)
    node.remove()
    raise ComputeTargetError(dask_worker.address, "the run ended while the node was being opened")


def start_node(settings: NodeSettings, cores: int | None, over: threading.Event) -> Node:
    """Start the slots of a run, in an environment that is built first if necessary; *over* stops that."""
    source = settings.interpreter.source
    path = built_interpreter(source, cache_folder(), over) if isinstance(source, EnvironmentPlan) else interpreter_of(source)
    return Node(replace(settings, interpreter=replace(settings.interpreter, source=path)), cores)


def _close_abandoned(runs: _Runs, token: str, only: Node | None = None) -> None:
    """Close an abandoned node, unless it was already replaced."""
    if (entry := _remove_entry(runs, token, only)) is not None:
        entry.node.close(graceful=False)
        entry.node.remove()


def _remove_entry(runs: _Runs, token: str, only: Node | None = None) -> _Open | None:
    with _registry_lock:
        entry = runs.open.get(token)
        if entry is None or (only is not None and entry.node is not only):
            return None
        del runs.open[token]
    if entry.watchdog is not None:
        entry.watchdog.stop()
    return entry
