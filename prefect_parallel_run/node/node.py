"""A node: the slots of one Dask worker for one run. A worker may serve several runs at once, with a Node for each."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.child_startup import ChildFactory, StartFailure
from prefect_parallel_run.node.gpus import VISIBLE, default_slots, slot_environment, visible_gpus
from prefect_parallel_run.node.node_log import NodeLog
from prefect_parallel_run.node.prefetch import LeaseFiles
from prefect_parallel_run.node.process_log import ProcessLog
from prefect_parallel_run.node.reaper_watch import Guard
from prefect_parallel_run.node.recall import Recall
from prefect_parallel_run.node.script_lines import LogBatch
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings
from prefect_parallel_run.node.slot import Slot, SlotRetiredError, SlotStoppedError, SlotUnusableError, Work
from prefect_parallel_run.node.slot_pool import Resized, Slots
from prefect_parallel_run.node.standby import Spares
from prefect_parallel_run.node.standby_count import SpareNeed

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
    as_of: int = 0  #: number of the node's last resizing


class Node:
    """The slots of one worker for one run.

    Args:
        settings: What the run needs.
        cores: That are the worker's own; None: all of the machine.
    """

    def __init__(self, settings: NodeSettings, cores: int | None = None) -> None:
        self._cores = cores or _cores()
        marker = f"{_MARKER}={settings.token}.{os.getpid()}.{uuid.uuid4().hex}"  # two nodes may share a process
        interpreter = settings.interpreter or sys.executable
        self._scratch = scratch = tempfile.mkdtemp(prefix="parallel_run_")
        self.settings = settings = _at_home(settings, scratch) if settings.rows_home else settings
        environment = {**os.environ, **settings.environment_variables, "AZUREML_BI_OUTPUT_PATH": settings.output}
        environment[_MARKER] = marker.partition("=")[2]
        self._gpus = gpus = visible_gpus(environment)
        wanted = settings.slots or default_slots(self._cores, gpus)
        own = () if VISIBLE in settings.environment_variables else gpus  # who sets it for all processes has decided
        self._own_gpus, self._environment = own, environment
        lives = ProcessLog()
        starter = ChildFactory(settings, {**environment, **self._variables(0)}, interpreter, scratch, lives)
        count = min(wanted, settings.most_slots)
        self._spares = Spares(starter if self._are_alike(count) else None, SpareNeed(settings.run_invocation_timeout))

        def make(place: int, number: int) -> Slot:
            starter = ChildFactory(settings, {**environment, **self._variables(place)}, interpreter, scratch, lives)
            slot = Slot(number, settings, starter, self._spares, lambda: self._slots.spare(slot))
            return slot

        self._recalls: dict[int, Recall] = {}  # by lease
        self._admitted: set[int] = set()  # leases that have begun; of very many the newest
        self._refused: set[int] = set()  # leases that have been called back before they began
        self._lock = threading.Lock()
        self._guard = Guard(marker, scratch, lambda status: lives.tell("guardian_replaced", "guardian", exit=status))
        self._log = NodeLog(settings, lives)
        self._log.start()
        self._slots = Slots(make, count)  # last: its threads find all else in place

    @property
    def facts(self) -> NodeFacts:
        """Return what the node is."""
        return NodeFacts(
            node=self.settings.node,
            host=socket.gethostname(),
            pid=os.getpid(),
            cores=self._cores,
            slots=len(self._slots.all),
            gpus=len(self._gpus),
        )

    def run(self, lease: int, works: list[Work]) -> LeaseResult:
        """Run *works* in a slot that is idle, waiting for one; objects of a store are fetched meanwhile."""
        recall = self._admit(lease)
        if recall is None:
            return self._result([])
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
        self._slots.idle.wake()
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
            recall = self._recalls[lease] = Recall(lease)
            return recall

    def _run(self, recall: Recall, first: int, do: Callable[[Slot, list[tuple[Any, ...]]], None]) -> LeaseResult:
        slot = self._slots.take(recall)
        if slot is None:  # called back, or no slot is left, or the node is closing
            recall.answer(first)
            return self._result([])
        receipts: list[tuple[Any, ...]] = []
        try:
            do(slot, receipts)
        except SlotUnusableError as error:
            self._slots.give_up(slot, error.failure)
        except SlotRetiredError:
            self._slots.mark_exited(slot)
        except SlotStoppedError:
            pass  # the run is ending; what was finished still goes home
        else:
            self._slots.offer(slot)
        if not self.settings.rows_home:
            _sync_parts(self.settings, receipts)
        return self._result(receipts)

    def _result(self, receipts: list[tuple[Any, ...]]) -> LeaseResult:
        slots, as_of = self._slots.count()
        return LeaseResult(receipts, slots, self._slots.next_failure(), as_of)

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

    def resize(self, slots: int, number: int) -> Resized:
        """Start slots, or retire some, until there are so many, and return at once.

        A slot that is retired finishes the mini-batch that it runs, and gives the rest of its lease back; then its child calls
        shutdown() and ends. One that is still starting just ends. A slot that was given up is replaced by a new one.

        Args:
            slots: At least one stays, and there are never more than mini-batches.
            number: Of the resizing: one that a later one has overtaken does nothing.
        """
        count = max(1, min(slots, self.settings.most_slots))
        if not self._are_alike(count):
            self._spares.stop()
        return self._slots.resize(count, number)

    def _are_alike(self, count: int) -> bool:
        """True when a spare, which is started before it is known whom it will replace, fits into all of *count* places."""
        return all(self._variables(place) == self._variables(0) for place in range(count))

    def _variables(self, place: int) -> dict[str, str]:
        """Return what only the process in a place has in its environment."""
        return slot_environment(place, self._own_gpus, self._environment)

    def on_slot_ready(self, tell: Callable[[int], None]) -> None:
        """Have *tell* called for every slot that becomes ready, and for those that are, with the last resizing's number."""
        self._slots.on_slot_ready(tell)

    def close(self, *, graceful: bool) -> list[str]:
        """End all children, with shutdown() when *graceful*; return what went wrong in shutdown().

        A child that is still starting never had a mini-batch, and is not waited for. What is there of a node with rows in it
        stays until ``remove``.
        """
        spares = threading.Thread(target=self._spares.stop)
        spares.start()
        problems = self._slots.close(graceful=graceful)
        spares.join()
        self._log.close()
        if not self.settings.rows_home:
            self.remove()
        return problems

    def remove(self) -> None:
        """End whatever the scripts left running, and remove their scratch; rows that are in it have been fetched."""
        self._guard.close()

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
        path = Path(self.settings.run_directory, folder, name)
        if folder == "logs" and not path.exists():  # of very many only some are kept
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def logs(self) -> dict[str, int]:
        """Return the size of every log that is not empty, bytes by name."""
        found: dict[str, int] = {}
        for path in Path(self.settings.run_directory, "logs").iterdir():
            with suppress(FileNotFoundError):  # of very many only some are kept
                if path.is_file():  # a script may make folders of its own there
                    found[path.name] = path.stat().st_size
        return {name: size for name, size in found.items() if size}

    def on_script_log(self, tell: Callable[[LogBatch], None]) -> None:
        """Have *tell* called with what the scripts log."""
        self._log.tell_to(tell)

    def last_said(self) -> list[LogBatch]:
        """Return what the scripts have logged lately; a node that is closed says no more."""
        return self._log.last_said()


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
