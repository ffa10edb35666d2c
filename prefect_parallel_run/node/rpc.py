"""The functions that Dask is asked to call on a worker, and the nodes that are open there, by the run's token.

All but one go through ``Client.run``; ``run_lease`` is the one function that is a Dask task.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from distributed import get_worker, secede

from prefect_parallel_run.environments import interpreter_of
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.cache import cache_folder
from prefect_parallel_run.node.code_archive import Incoming, unpacked
from prefect_parallel_run.node.environments import built_interpreter
from prefect_parallel_run.node.node import LeaseResult, Node
from prefect_parallel_run.node.preflight import PreflightRequest, PreflightResult, run_checks
from prefect_parallel_run.node.script_lines import LogBatch
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings
from prefect_parallel_run.node.slot import Work
from prefect_parallel_run.node.slot_pool import Resized
from prefect_parallel_run.node.watchdog import Watchdog


class NodeAccess(NamedTuple):
    """How a node gets at what it cannot see."""

    rows_home: bool  #: rows and logs are fetched from it
    bundled: bool  #: the script comes with the bundle


class ShutdownReport(NamedTuple):
    """What a node says when it is closed."""

    problems: list[str]  #: what went wrong in the scripts' shutdown()
    said: list[LogBatch]  #: what the scripts have logged lately; some of it has been told before


class _Open(NamedTuple):
    node: Node
    keeper: Watchdog | None
    secedes: bool  #: leases leave the worker's threads to others: it has no more than we have leases there


class _Arriving(NamedTuple):
    incoming: Incoming
    keeper: Watchdog


# What several threads may touch is keyed by the worker too: several may share a process.
_open: WeakKeyDictionary[Any, dict[str, _Open]] = WeakKeyDictionary()  # by worker, then token
_over: WeakKeyDictionary[Any, dict[str, threading.Event]] = WeakKeyDictionary()  # the same; set once the run has ended here
_incoming: WeakKeyDictionary[Any, dict[str, _Arriving]] = WeakKeyDictionary()  # the same; bundles that are arriving
_begun: set[str] = set()  # tokens of runs that have opened their nodes: settings that come late prepare nothing
_prepared: dict[str, Node] = {}  # nodes that no run has opened yet
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by token: one opens, others wait
_taking = threading.Lock()  # held for a moment: a node is either there for close_node to end, or ended by who opened it


def prepare_node(settings: NodeSettings) -> None:
    """Start the slots for a run that will be opened on this worker, which has not joined its scheduler yet."""
    with _locks[settings.token]:
        if settings.token not in _prepared and settings.token not in _begun:
            _prepared[settings.token] = _start(settings, None, threading.Event())


async def view_node(probe: PreflightRequest, dask_worker: Any) -> PreflightResult:
    """Return what this machine sees of what a run needs.

    Raises:
        ComputeTargetError: It has no folder to keep things in.
    """
    with _told_as_ours(dask_worker):
        return await asyncio.to_thread(run_checks, probe)


async def take_bundle(token: str, sha256: str, offset: int, data: bytes, is_last: bool, dask_worker: Any) -> None:
    """Take the next piece of a bundle; the last one has it unpacked.

    What has come is given up when nothing more comes and the flow process says nothing: it is gone.

    Raises:
        BundleRefusedError: It is not what it should be.
        ComputeTargetError: The disk does not take it.
    """
    here = _incoming.setdefault(dask_worker, {})
    with _told_as_ours(dask_worker):
        if (arriving := here.get(token)) is None:
            incoming = Incoming(cache_folder(), sha256)
            keeper = Watchdog(lambda: dask_worker.loop.add_callback(_give_up, here, token, incoming))
            arriving = here[token] = _Arriving(incoming, keeper)
        arriving.keeper.keep()
        try:
            arriving.incoming.take(offset, data)
            if is_last:
                arriving.keeper.stop()
                del here[token]
                with arriving.incoming:
                    await asyncio.to_thread(arriving.incoming.unpack)
        except BaseException:
            _give_up(here, token, arriving.incoming)
            raise


async def open_node(settings: NodeSettings, way: NodeAccess | None, dask_worker: Any) -> NodeFacts:
    """Start the slots for a run on this Dask worker, and return while the children start.

    Args:
        settings: What the run needs; a node that was prepared has its name already.
        way: How it gets at what it cannot see; None: it sees everything.
        dask_worker: Given by Dask to a function with an argument of this name.

    Raises:
        EnvironmentSetupError: The interpreter is not there, or the environment cannot be built.
        ComputeTargetError: The disk does not take what a node needs, or the run is over.
    """
    token = settings.token
    threads = int(dask_worker.state.nthreads)
    over = _over_on(dask_worker, token)
    with _told_as_ours(dask_worker):
        mine = _way_on(settings, way)
        node = await asyncio.to_thread(_opened, dask_worker, mine, threads, over)
    message = {"node": node.settings.node}
    node.on_slot_ready(lambda as_of: dask_worker.log_event(ready_topic(token), {**message, "as_of": as_of}))
    node.on_script_log(lambda said: dask_worker.log_event(said_topic(token), said))
    return node.facts


def ready_topic(token: str) -> str:
    """Return the topic of the Dask events that tell that a slot is ready for its first mini-batch."""
    return f"parallel-run-ready-{token}"


def said_topic(token: str) -> str:
    """Return the topic of the Dask events that tell what the scripts log."""
    return f"parallel-run-said-{token}"


def run_lease(
    token: str, lease: int, start: int, attempt: int, works: bytes, piece: tuple[int, int] | None = None
) -> LeaseResult:
    """Run the mini-batches of one lease. This is the function that Dask runs.

    Args:
        token: Names the driving of the run that the lease belongs to.
        lease: Its number.
        start: Number of the first mini-batch; the others follow.
        attempt: The try that this is, for all of them.
        works: The plan's ``work`` texts, one per line.
        piece: Only these items (half-open range) of the one mini-batch.
    """
    found = _of(get_worker()).get(token)
    if found is None:  # the worker was restarted under the same address: what was sent to its predecessor is lost
        raise NodeClosedError(token)
    if found.secedes:
        secede()
    only = b"" if piece is None else b",[%d,%d]" % piece
    lines = enumerate(works.split(b"\n"), start)
    sent = [Work(index, attempt, b"[%d,%d,%b%b]\n" % (index, attempt, work, only)) for index, work in lines]
    return found.node.run(lease, sent)


async def recall_lease(token: str, lease: int, at_once: bool, dask_worker: Any) -> int | None:
    """Have a lease give back what it has not begun, or *at_once* end with what is finished.

    Returns:
        The number of the first mini-batch that is given back, or one past its last; NOT_BEGUN gives all of it back; None when
        the lease is no longer here.
    """
    found = _of(dask_worker).get(token)
    answer = found.node.recall(lease, at_once=at_once) if found is not None else None
    if answer is None:
        return None
    return await asyncio.wrap_future(answer)


async def resize_node(token: str, slots: int, number: int, dask_worker: Any) -> Resized:
    """Have this node start more slots, or retire some; see ``Node.resize``."""
    found = _of(dask_worker).get(token)
    if found is None:
        raise NodeClosedError(token)
    # From now on leases leave their threads: those that came before keep no more than all but one of them.
    _of(dask_worker)[token] = found._replace(secedes=True)
    return await asyncio.to_thread(found.node.resize, slots, number)


def keep_node(token: str, dask_worker: Any) -> None:
    """Note that the flow process is alive."""
    if (arriving := _incoming.get(dask_worker, {}).get(token)) is not None:
        arriving.keeper.keep()
    found = _of(dask_worker).get(token)
    if found is not None and found.keeper is not None:
        found.keeper.keep()


async def read_file(token: str, folder: str, name: str, offset: int, length: int, dask_worker: Any) -> bytes:
    """Return bytes of a part or a log of a node that has them at home."""
    found = _of(dask_worker).get(token)
    if found is None:
        raise NodeClosedError(token)
    return await asyncio.to_thread(found.node.read, folder, name, offset, length)


def list_logs(token: str, dask_worker: Any) -> dict[str, int]:
    """Return the size of every log, bytes by name."""
    found = _of(dask_worker).get(token)
    return {} if found is None else found.node.logs()


async def close_node(token: str, graceful: bool, dask_worker: Any) -> ShutdownReport:
    """End the run on this node; return its last words.

    A node that has rows at home keeps them until ``remove_node``.
    """
    with _taking:
        _over_on(dask_worker, token).set()
        found = _of(dask_worker).get(token)
    _give_up(_incoming.get(dask_worker, {}), token)
    if found is None:
        return ShutdownReport([], [])
    problems = await asyncio.to_thread(found.node.close, graceful=graceful)
    if not found.node.settings.rows_home:
        _forget(dask_worker, token)
    return ShutdownReport(problems, found.node.last_said())


async def remove_node(token: str, dask_worker: Any) -> None:
    """Remove what ``close_node`` has left."""
    if (found := _forget(dask_worker, token)) is not None:
        await asyncio.to_thread(found.node.remove)


class NodeClosedError(RuntimeError):
    """A lease came to a node where its run is not open."""


def _of(dask_worker: Any) -> dict[str, _Open]:
    return _open.get(dask_worker, {})


def _way_on(settings: NodeSettings, way: NodeAccess | None) -> NodeSettings:
    """Return the settings of a node that is told its way."""
    if way is None:
        return settings
    if way.bundled and settings.bundle is not None:
        folder = unpacked(cache_folder(), settings.bundle.sha256)
        if folder is None:
            raise FileNotFoundError(f"bundle {settings.bundle.sha256} is no longer unpacked here")
        settings = replace(settings, source=str(folder / settings.bundle.source), script=str(folder / settings.bundle.script))
    return replace(settings, rows_home=way.rows_home)


def _over_on(dask_worker: Any, token: str) -> threading.Event:
    return _over.setdefault(dask_worker, {}).setdefault(token, threading.Event())


@contextmanager
def _told_as_ours(dask_worker: Any) -> Iterator[None]:
    """Tell what the machine refuses with where it was: on its way, an OSError looks like a connection that was lost."""
    try:
        yield
    except OSError as error:
        said = f"{error.strerror}: {error.filename}" if error.filename and error.strerror else str(error)
        raise ComputeTargetError(dask_worker.address, f"the node (host {socket.gethostname()}) says: {said}") from error


def _give_up(arriving: dict[str, _Arriving], token: str, only: Incoming | None = None) -> None:
    """Forget a bundle that is arriving; its file goes with it."""
    found = arriving.get(token)
    if found is not None and only in (None, found.incoming):
        del arriving[token]
        found.keeper.stop()
        found.incoming.close()


def _opened(dask_worker: Any, settings: NodeSettings, threads: int, over: threading.Event) -> Node:
    """Return the one node that the run has on this worker from now on.

    A flow process that could not hear us may ask twice; and its run may end while a node is made for it.
    """
    token = settings.token
    with _locks[token]:
        _begun.add(token)
        if (node := _prepared.pop(token, None)) is None:
            _end(dask_worker, token)  # given up while it was cut off: what it does is void
            node = _start(settings, threads if settings.is_kept else None, over)
        keeper = Watchdog(lambda: _end(dask_worker, token, node)) if settings.is_kept else None
        with _taking:
            if not over.is_set():
                _open.setdefault(dask_worker, {})[token] = _Open(node, keeper, secedes=threads <= 2 * node.facts.slots)
                return node
    if keeper is not None:
        keeper.stop()
    node.close(graceful=False)
    node.remove()
    raise ComputeTargetError(dask_worker.address, "the run ended while the node was opened")


def _start(settings: NodeSettings, cores: int | None, over: threading.Event) -> Node:
    if settings.environment is not None:
        interpreter = built_interpreter(settings.environment, cache_folder(), over)
    else:
        interpreter = interpreter_of(settings.interpreter)  # type: ignore[assignment]  # None: the worker's own
    return Node(replace(settings, interpreter=interpreter), cores)


def _end(dask_worker: Any, token: str, only: Node | None = None) -> None:
    """End a node that nobody waits for; one that another has taken the place of is not there any more."""
    if (found := _forget(dask_worker, token, only)) is not None:
        found.node.close(graceful=False)
        found.node.remove()


def _forget(dask_worker: Any, token: str, only: Node | None = None) -> _Open | None:
    with _taking:
        found = _of(dask_worker).get(token)
        if found is None or (only is not None and found.node is not only):
            return None
        del _open[dask_worker][token]
    if found.keeper is not None:
        found.keeper.stop()
    return found
