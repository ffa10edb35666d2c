"""A node: the slots of one Dask worker for one run. A worker may serve several runs at once, with a Node for each."""

from __future__ import annotations

import os
import queue
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
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
from prefect_parallel_run.node.slot import Slot, SlotRetiredError, SlotStoppedError, SlotUnusableError, Work
from prefect_parallel_run.node.spares import Spares
from prefect_parallel_run.node.starting import Starter, StartFailure
from prefect_parallel_run.policy.spares import SpareNeed
from prefect_parallel_run.records import Receipt

_STARTED, _SECONDS = Receipt._fields.index("started"), Receipt._fields.index("seconds")
_READABLE = ("parts", "logs")  #: folders of a run directory whose files may be asked for
_REMEMBERED = 10_000  #: leases
NOT_BEGUN = -1  #: no mini-batch's number
_MARKER = "PREFECT_PARALLEL_RUN_MARKER"


class LeaseResult(NamedTuple):
    """What a lease brings home, in plain values."""

    receipts: list[tuple[Any, ...]]  #: one per mini-batch that was run
    slots: int  #: slots that still work
    failure: StartFailure | None  #: why a slot was given up, once per slot


class Node:
    """The slots of one worker for one run.

    Args:
        settings: What the run needs.
        cores: That are the worker's own; None: all of the machine.
    """

    def __init__(self, settings: NodeSettings, cores: int | None = None) -> None:
        self._cores = cores or _cores()
        self._tell_ready: Callable[[], None] | None = None
        self._untold = 0  # slots that became ready before anybody wanted to know
        marker = f"{_MARKER}={settings.token}.{os.getpid()}.{uuid.uuid4().hex}"  # two nodes may share a process
        interpreter = settings.interpreter or sys.executable
        self._scratch = scratch = tempfile.mkdtemp(prefix="parallel_run_")
        self.settings = settings = _at_home(settings, scratch) if settings.rows_home else settings
        environment = {**os.environ, **settings.environment_variables, "AZUREML_BI_OUTPUT_PATH": settings.output}
        environment[_MARKER] = marker.partition("=")[2]
        self._gpus = gpus = visible_gpus(environment)
        wanted = settings.slots or default_slots(self._cores, gpus)
        own = () if VISIBLE in settings.environment_variables else gpus  # who sets it for all processes has decided
        variables = [slot_environment(number, own, environment) for number in range(min(wanted, settings.most_slots))]
        starters = [Starter(settings, {**environment, **given}, interpreter, scratch) for given in variables]
        # A spare is started before it is known whom it will replace: it fits where all slots are alike.
        alike = starters[0] if starters and all(given == variables[0] for given in variables) else None
        self._spares = Spares(alike, SpareNeed(settings.run_invocation_timeout))
        self._slots = [Slot(number, settings, starter, self._spares, self._retire) for number, starter in enumerate(starters)]
        self._usable = len(self._slots)
        self._idle = IdleSlots()
        self._recalls: dict[int, Recall] = {}  # by lease
        self._admitted: set[int] = set()  # leases that have begun; of very many the newest
        self._refused: set[int] = set()  # leases that have been called back before they began
        self._failures: queue.SimpleQueue[StartFailure] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._guardian = guardian.start(marker, scratch)
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
            cores=self._cores,
            slots=len(self._slots),
            gpus=len(self._gpus),
        )

    def run(self, lease: int, works: list[Work]) -> LeaseResult:
        """Run *works* in a slot that is idle, waiting for one; objects of a store are fetched meanwhile."""
        recall = self._admit(lease)
        if recall is None:
            return LeaseResult([], self._usable, self._next_failure())
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
        """Ask a lease to give back what it has not begun; None when it is no longer here.

        Returns:
            The number of the first mini-batch that is given back, or one past its last; NOT_BEGUN gives all of it back.
        """
        with self._lock:
            recall = self._recalls.get(lease)
            if recall is None:
                if lease in self._admitted:
                    return None
                self._refused.add(lease)  # it waits for a thread of the worker, which others keep busy
                never: Future[int] = Future()
                never.set_result(NOT_BEGUN)
                return never
        answer = recall.ask(at_once=at_once)
        self._idle.wake()
        return answer

    def _admit(self, lease: int) -> Recall | None:
        """Take note that a lease has begun; None when it has been called back before."""
        with self._lock:
            if lease in self._refused:
                self._refused.discard(lease)
                return None
            self._admitted.add(lease)
            if len(self._admitted) > 2 * _REMEMBERED:
                self._admitted = set(sorted(self._admitted)[-_REMEMBERED:])
            recall = self._recalls[lease] = Recall()
            return recall

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
        except (SlotStoppedError, SlotRetiredError):
            pass  # the run is ending, or the slot is one too many; what was finished still goes home
        else:
            self._idle.put(slot)
        if not self.settings.rows_home:
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

        A child that is still starting never had a mini-batch, and is not waited for. What is there of a node with rows in it
        stays until ``remove``.
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
        if not self.settings.rows_home:
            self.remove()
        return [problem for problem in problems if problem]

    def remove(self) -> None:
        """End whatever the scripts left running, and remove their scratch; rows that are in it have been fetched."""
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian.wait()

    def read(self, folder: str, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file in the run directory.

        Args:
            folder: ``parts`` or ``logs``.
            name: Of the file.
            offset: Where to begin, bytes.
            length: Bytes at most.
        """
        if folder not in _READABLE or Path(name).name != name:
            raise ValueError(f"{folder}/{name} is no file of a run")
        with Path(self.settings.run_directory, folder, name).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def logs(self) -> dict[str, int]:
        """Return the size of every log that is not empty, bytes by name."""
        found = {
            path.name: path.stat().st_size for path in Path(self.settings.run_directory, "logs").iterdir() if path.is_file()
        }
        return {name: size for name, size in found.items() if size}

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

    def _retire(self) -> bool:
        """Count a slot out whose script asks for one process less; False for the last one, which is needed."""
        with self._lock:
            is_spare = self._usable > 1
            self._usable -= is_spare
        return is_spare

    def _next_failure(self) -> StartFailure | None:
        try:
            return self._failures.get_nowait()
        except queue.Empty:
            return None


def _at_home(settings: NodeSettings, scratch: str) -> NodeSettings:
    """Return settings for a node that cannot see the run directory: it has one of its own, and rows are fetched from there."""
    run_directory = Path(scratch, "run")
    for folder in _READABLE:
        (run_directory / folder).mkdir(parents=True)
    return replace(settings, run_directory=str(run_directory))


def _cores() -> int:
    from dask.system import CPU_COUNT  # noqa: PLC0415  a node that is prepared must not wait for Dask

    return int(CPU_COUNT)


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
