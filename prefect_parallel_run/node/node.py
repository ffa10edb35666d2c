"""A node: the slots of one Dask worker for one run, and the functions that Dask is asked to call there.

``open_node``, ``recall_lease`` and ``close_node`` go through ``Client.run``; ``run_lease`` is the one function that is a Dask
task. A worker may serve several runs at once: each has a Node of its own, found by its token.
"""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.node import guardian
from prefect_parallel_run.node.fetching import LeaseFiles
from prefect_parallel_run.node.gpus import VISIBLE, default_slots, slot_environment, visible_gpus
from prefect_parallel_run.node.idle import IdleSlots
from prefect_parallel_run.node.recall import Recall
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings
from prefect_parallel_run.node.slot import Slot, SlotStoppedError, SlotUnusableError, Work
from prefect_parallel_run.node.spares import Spares
from prefect_parallel_run.node.starting import Starter, StartFailure
from prefect_parallel_run.policy.spares import SpareNeed
from prefect_parallel_run.records import Receipt

_STARTED, _SECONDS = Receipt._fields.index("started"), Receipt._fields.index("seconds")
_MARKER = "PREFECT_PARALLEL_RUN_MARKER"
_nodes: dict[str, Node] = {}
_prepared: set[str] = set()  # tokens of nodes that no run has opened yet
_opening = threading.Lock()


class LeaseResult(NamedTuple):
    """What a lease brings home, in plain values."""

    receipts: list[tuple[Any, ...]]  #: one per mini-batch that was run
    slots: int  #: slots that still work
    failure: StartFailure | None  #: why a slot was given up, once per slot


class Node:
    """The slots of one worker for one run."""

    def __init__(self, settings: NodeSettings, tell_ready: Callable[[], None] | None = None) -> None:
        self.settings, self._tell_ready = settings, tell_ready
        self._untold = 0  # slots that became ready before anybody wanted to know
        marker = f"{_MARKER}={settings.token}.{os.getpid()}"
        interpreter = settings.interpreter or sys.executable
        environment = {**os.environ, **settings.environment_variables, "AZUREML_BI_OUTPUT_PATH": settings.output}
        environment[_MARKER] = marker.partition("=")[2]
        self._gpus = gpus = visible_gpus(environment)
        wanted = settings.slots or default_slots(_cores(), gpus)
        self._scratch = scratch = tempfile.mkdtemp(prefix="parallel_run_")
        own = () if VISIBLE in settings.environment_variables else gpus  # who sets it for all processes has decided
        variables = [slot_environment(number, own, environment) for number in range(min(wanted, settings.most_slots))]
        starters = [Starter(settings, {**environment, **given}, interpreter, scratch) for given in variables]
        # A spare is started before it is known whom it will replace: it fits where all slots are alike.
        alike = starters[0] if starters and all(given == variables[0] for given in variables) else None
        self._spares = Spares(alike, SpareNeed(settings.run_invocation_timeout))
        self._slots = [Slot(number, settings, starter, self._spares) for number, starter in enumerate(starters)]
        self._usable = len(self._slots)
        self._idle = IdleSlots()
        self._recalls: dict[int, Recall] = {}  # by lease
        self._failures: queue.SimpleQueue[StartFailure] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._guardian = _start_guardian(marker, scratch)
        self._stopped = False
        for slot in self._slots:
            threading.Thread(target=self._open_slot, args=(slot,), daemon=True).start()

    @property
    def facts(self) -> NodeFacts:
        """Return what the node is."""
        return NodeFacts(
            node=self.settings.node,
            host=socket.gethostname(),
            pid=os.getpid(),
            cores=_cores(),
            slots=len(self._slots),
            gpus=len(self._gpus),
        )

    def run(self, lease: int, works: list[Work]) -> LeaseResult:
        """Run *works* in a slot that is idle, waiting for one; objects of a store are fetched meanwhile."""
        recall = self._recalls[lease] = Recall()
        try:
            if not self.settings.fetches:
                return self._run(recall, works[0].mini_batch, lambda slot, receipts: slot.run(works, receipts, recall))
            files = LeaseFiles(works, self._scratch)
            try:
                return self._run(
                    recall, works[0].mini_batch, lambda slot, receipts: self._run_fetched(files, slot, receipts, recall)
                )
            finally:
                files.close()
        finally:
            del self._recalls[lease]
            recall.answer(works[-1].mini_batch + 1)

    def recall(self, lease: int, *, at_once: bool) -> Future[int] | None:
        """Ask a lease to give back what it has not begun; None when it is not, or no longer, here.

        Returns:
            The number of the first mini-batch that is given back, or one past its last.
        """
        recall = self._recalls.get(lease)
        if recall is None:
            return None
        answer = recall.ask(at_once=at_once)
        self._idle.wake()
        return answer

    def _run(self, recall: Recall, first: int, do: Callable[[Slot, list[tuple[Any, ...]]], None]) -> LeaseResult:
        slot = self._idle.take(recall)
        if slot is None:  # called back, or no slot is left, or the node is closing
            recall.answer(first)
            return LeaseResult([], 0 if self._stopped else self._usable, self._next_failure())
        receipts: list[tuple[Any, ...]] = []
        try:
            do(slot, receipts)
        except SlotUnusableError as error:
            self._give_up(error.failure)
        except SlotStoppedError:
            pass  # the run is ending; what was finished still goes home
        else:
            self._idle.put(slot)
        _sync_parts(self.settings, receipts)
        return LeaseResult(receipts, self._usable, self._next_failure())

    def _run_fetched(self, files: LeaseFiles, slot: Slot, receipts: list[tuple[Any, ...]], recall: Recall) -> None:
        """Run mini-batches as their files come; the wait for them counts as theirs."""
        waiting_since = time.monotonic()
        for fetched in files.each(slot.raise_if_stopping, recall):
            waited = time.monotonic() - waiting_since
            finished = len(receipts)
            if fetched.error is not None:
                receipts.append(fetched.receipt(self.settings.node))
            else:
                slot.run([fetched.work], receipts, recall)
            fetched.remove()
            if len(receipts) > finished:
                receipts[-1] = _with_seconds(receipts[-1], waited)
            waiting_since = time.monotonic()

    def close(self, *, graceful: bool) -> list[str]:
        """End all children, with shutdown() when *graceful*; return what went wrong in shutdown().

        A child that is still starting never had a mini-batch, and is not waited for.
        """
        self._stopped = True
        ready = self._idle.close()
        problems: list[str] = []
        ends: list[Callable[[], object]] = [
            (lambda slot=slot: problems.append(slot.shut_down())) if graceful and slot in ready else slot.stop  # type: ignore[misc]
            for slot in self._slots
        ]
        ends.append(self._spares.stop)
        threads = [threading.Thread(target=end) for end in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()  # it ends whatever the scripts left running, and removes their scratch
        self._guardian.wait()
        return [problem for problem in problems if problem]

    def _open_slot(self, slot: Slot) -> None:
        try:
            slot.start()
        except SlotUnusableError as error:
            self._give_up(error.failure)
        except SlotStoppedError:
            return
        except Exception as error:  # noqa: BLE001  whatever it was, a lease must not wait for this slot
            self._give_up(StartFailure("spawn", type(error).__name__, str(error), traceback.format_exc()))
        else:
            self._idle.put(slot)
            with self._lock:
                tell = self._tell_ready
                self._untold += tell is None
            if tell is not None:
                tell()

    def tell_ready_to(self, tell: Callable[[], None]) -> None:
        """Have *tell* called for every slot that becomes ready, and for those that are."""
        with self._lock:
            self._tell_ready, untold = tell, self._untold
        for _ in range(untold):
            tell()

    def _give_up(self, failure: StartFailure) -> None:
        with self._lock:
            self._usable -= 1
            last = self._usable == 0
        self._failures.put(failure)
        if last:
            self._idle.close()

    def _next_failure(self) -> StartFailure | None:
        try:
            return self._failures.get_nowait()
        except queue.Empty:
            return None


def prepare_node(settings: NodeSettings) -> None:
    """Start the slots for a run that will be opened on this worker, which has not joined its scheduler yet."""
    with _opening:
        if settings.token not in _nodes:
            _nodes[settings.token] = Node(settings)
            _prepared.add(settings.token)


def open_node(settings: NodeSettings, names: dict[str, str], dask_worker: Any) -> NodeFacts:
    """Start the slots for a run on this Dask worker; returns at once, while the children start.

    Args:
        settings: What the run needs; its ``node`` is replaced by this worker's name.
        names: Node name by worker address; one that was prepared has its name already.
        dask_worker: Given by Dask to a function with an argument of this name.
    """
    token = settings.token
    with _opening:
        if token in _prepared:
            _prepared.discard(token)
        else:
            if (before := _nodes.pop(token, None)) is not None:  # given up while it was cut off: what it does is void
                before.close(graceful=False)
            _nodes[token] = Node(replace(settings, node=names[dask_worker.address]))
        node = _nodes[token]
    message = {"node": node.settings.node}
    node.tell_ready_to(lambda: dask_worker.log_event(ready_topic(token), message))
    return node.facts


def ready_topic(token: str) -> str:
    """Return the topic of the Dask events that tell that a slot is ready for its first mini-batch."""
    return f"parallel-run-ready-{token}"


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
    node = _nodes.get(token)
    if node is None:  # the worker was restarted under the same address: what was sent to its predecessor is lost
        raise NodeClosedError(token)
    only = b"" if piece is None else b",[%d,%d]" % piece
    lines = enumerate(works.split(b"\n"), start)
    return node.run(lease, [Work(index, attempt, b"[%d,%d,%b%b]\n" % (index, attempt, work, only)) for index, work in lines])


async def recall_lease(token: str, lease: int, at_once: bool) -> int | None:
    """Have a lease give back what it has not begun, or *at_once* end with what is finished.

    Returns:
        The number of the first mini-batch that is given back, or one past its last; None when the lease is not here.
    """
    node = _nodes.get(token)
    answer = node.recall(lease, at_once=at_once) if node is not None else None
    if answer is None:
        return None
    return await asyncio.wrap_future(answer)


async def close_node(token: str, graceful: bool) -> list[str]:
    """End the run on this node; return what went wrong in the scripts' shutdown()."""
    node = _nodes.pop(token, None)
    if node is None:
        return []
    return await asyncio.to_thread(node.close, graceful=graceful)


class NodeClosedError(RuntimeError):
    """A lease came to a node where its run is not open."""


def _cores() -> int:
    from dask.system import CPU_COUNT  # noqa: PLC0415  a node that is prepared must not wait for Dask

    return int(CPU_COUNT)


def _start_guardian(marker: str, scratch: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guardian.__file__, marker, scratch],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _with_seconds(receipt: tuple[Any, ...], waited: float) -> tuple[Any, ...]:
    """Return a receipt whose try has begun *waited* seconds earlier."""
    values = list(receipt)
    values[_STARTED] -= waited
    values[_SECONDS] += waited
    return tuple(values)


def _sync_parts(settings: NodeSettings, receipts: list[tuple[Any, ...]]) -> None:
    """Have the rows on disk before their receipts go home: what the ledger says is committed must survive a power cut."""
    for name in {receipt[7] for receipt in receipts if receipt[7]}:
        descriptor = os.open(Path(settings.run_directory, "parts", name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
