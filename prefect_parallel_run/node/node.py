"""A node: the slots of one Dask worker for one run. A worker that serves several runs has a Node for each."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from prefect_parallel_run._atomic import sync
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.child_startup import ChildFactory, StandbyChild, StandbyNeed, StartFailure
from prefect_parallel_run.node.cores import OPENMP, VARIABLES, override, usable_cores, user_limits, with_thread_limit
from prefect_parallel_run.node.gpus import VISIBLE, default_slots, slot_environment, visible_gpus
from prefect_parallel_run.node.node_log import NodeLog, ProcessLog, ProcessRecord
from prefect_parallel_run.node.prefetch import LeaseFiles
from prefect_parallel_run.node.reaper import Guard
from prefect_parallel_run.node.settings import NodeFacts, NodeSettings
from prefect_parallel_run.node.slot import RecallRequest, Slot, SlotRetiredError, SlotStoppedError, SlotUnusableError, Work
from prefect_parallel_run.node.slot_pool import Resized, SlotPool

_READABLE = ("parts", "logs")  #: folders of a run directory whose files may be read
_REMEMBERED = 10_000  #: leases
NOT_BEGUN = -1  #: instead of a mini-batch's number: the lease has not started
_MARKER = "PREFECT_PARALLEL_RUN_MARKER"


class LeaseResult(NamedTuple):
    """The result of a lease."""

    receipts: list[Receipt]  #: one per mini-batch that was run
    slots: int  #: active slots
    failure: StartFailure | None  #: why a slot failed, once per slot
    as_of: int = 0  #: number of the node's last resize

    def __reduce__(self) -> Any:
        return _lease_result, (list(map(tuple, self.receipts)), *self[1:])


def _lease_result(receipts: list[tuple[Any, ...]], *rest: Any) -> LeaseResult:
    return LeaseResult(Receipt.of_tuples(receipts), *rest)


class Node:
    """The slots of one worker for one run; *cores* belong to its Dask worker (None: the settings' or all usable ones)."""

    def __init__(self, settings: NodeSettings, cores: int | None = None) -> None:
        self._cores = cores or settings.node.cores or usable_cores()
        self._scratch = tempfile.mkdtemp(prefix="parallel_run_")
        self.settings = _with_local_run_directory(settings, self._scratch) if settings.node.rows_are_remote else settings
        marker = f"{settings.token}.{os.getpid()}.{uuid.uuid4().hex}"  # two nodes may share a process
        variables = settings.interpreter.variables
        output = {"AZUREML_BI_OUTPUT_PATH": settings.script.output}
        self._environment = {**os.environ, **variables, **output, _MARKER: marker}
        self._gpus = visible_gpus(self._environment)
        own_limits = user_limits(os.environ) if settings.node.is_kept else {}
        limits = {} if settings.node.threads else override(own_limits, settings.node.thread_variables)
        self._limits = override(limits, {name: variables[name] for name in VARIABLES if name in variables})
        self._assigned_gpus = () if VISIBLE in variables else self._gpus  # set by the user: for all processes
        self._process_log = ProcessLog()
        count = min(settings.node.slots or default_slots(self._cores, self._gpus), settings.node.most_slots)
        self._count, self._as_of = max(1, count), 0  # slots, and the number of the resize that set them
        self._resizing = threading.Lock()
        factory = self._factory(0) if self._are_interchangeable(count) else None
        self._standby = StandbyChild(factory, StandbyNeed(settings.limits.run_invocation_timeout))
        self._recalls: dict[int, RecallRequest] = {}  # by lease
        self._admitted: set[int] = set()  # leases that have started; the newest of very many
        self._refused: set[int] = set()  # leases that were recalled before they started
        self._lock = threading.Lock()
        self._guard = Guard(
            f"{_MARKER}={marker}",
            self._scratch,
            lambda status: self._process_log.add_event("guardian_replaced", "guardian", exit=status),
        )
        self.log = NodeLog(self.settings, self._process_log)
        self.log.start()
        self.slots = SlotPool(self._create_slot, count)  # last: its threads use everything above

    @property
    def facts(self) -> NodeFacts:
        """Return the node's host, cores, slots, threads and GPUs."""
        return NodeFacts(
            node=self.settings.node.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            cores=self._cores,
            slots=len(self.slots.all),
            gpus=len(self._gpus),
            threads=self._variables(0)[OPENMP],
        )

    @property
    def processes(self) -> list[ProcessRecord]:
        """Return the children that have not exited."""
        return self._process_log.living

    # Leases

    def run(self, lease: int, works: list[Work]) -> LeaseResult:
        """Wait for an idle slot and run *works* there; objects of a store are fetched meanwhile."""
        recall = self._admit(lease)
        if recall is None:
            return self._result([])
        try:
            with closing(LeaseFiles(works, self._scratch)) if self.settings.items.fetches else nullcontext() as files:
                return self._result(self._run(works, recall, files))
        finally:
            del self._recalls[lease]
            recall.answer(works[-1].mini_batch + 1)

    def recall(self, lease: int, *, at_once: bool) -> Future[int] | None:
        """Recall the mini-batches of a lease that have not started; None when the lease has finished.

        Returns:
            The number of the first mini-batch that is returned, or one past the last; NOT_BEGUN returns all of them.
        """
        with self._lock:
            recall = self._recalls.get(lease)
            if recall is None:
                if lease in self._admitted:
                    return None
                self._refused.add(lease)  # it still waits for a thread of the busy worker
                not_begun: Future[int] = Future()
                not_begun.set_result(NOT_BEGUN)
                return not_begun
        answer = recall.request(at_once=at_once)
        self.slots.wake()
        return answer

    def _admit(self, lease: int) -> RecallRequest | None:
        """Record that a lease has started; None when it was recalled before."""
        with self._lock:
            if lease in self._refused:
                self._refused.discard(lease)
                return None
            self._admitted.add(lease)
            if len(self._admitted) > 2 * _REMEMBERED:
                self._admitted = set(sorted(self._admitted)[-_REMEMBERED:])
            recall = self._recalls[lease] = RecallRequest(lease)
            return recall

    def _run(self, works: list[Work], recall: RecallRequest, files: LeaseFiles | None) -> list[Receipt]:
        receipts: list[Receipt] = []
        slot = self.slots.acquire(recall)
        if slot is None:  # recalled, or no slot is left, or the node is closing
            recall.answer(works[0].mini_batch)
            return receipts
        try:
            if files is None:
                slot.run(works, receipts, recall)
            else:
                self._run_fetched(files, slot, receipts, recall)
        except SlotUnusableError as error:
            self.slots.mark_failed(slot, error.failure)
        except SlotRetiredError:
            self.slots.mark_exited(slot)
        except SlotStoppedError:
            pass  # the run is ending; finished mini-batches are still returned
        else:
            self.slots.release(slot)
        if not self.settings.node.rows_are_remote:  # before the receipts return: committed rows must survive a power cut
            for name in {receipt.part for receipt in receipts if receipt.part}:
                sync(Path(self.settings.run.directory, "parts", name))
        return receipts

    def _result(self, receipts: list[Receipt]) -> LeaseResult:
        slots, as_of = self.slots.count()
        return LeaseResult(receipts, slots, self.slots.next_failure(), as_of)

    def _run_fetched(self, files: LeaseFiles, slot: Slot, receipts: list[Receipt], recall: RecallRequest) -> None:
        """Run mini-batches as their files arrive; the wait counts towards each mini-batch's time."""
        waiting_since = time.monotonic()
        for fetched in files.each(slot.raise_if_stopping, recall):
            waited = time.monotonic() - waiting_since
            finished = len(receipts)
            if fetched.error is not None:
                receipts.append(fetched.receipt(self.settings.node.name))
            else:
                slot.run([fetched.work], receipts, recall)
            fetched.remove()
            if len(receipts) > finished:
                last = receipts[-1]
                receipts[-1] = last._replace(started=last.started - waited, seconds=last.seconds + waited)
            waiting_since = time.monotonic()

    # Slots

    def resize(self, slots: int, number: int) -> Resized:
        """Start or retire slots until there are *slots*, without waiting for them; ignored after a resize of higher *number*.

        A retired slot finishes its running mini-batch and returns the rest of its lease; then its child calls shutdown() and
        exits. One that is still starting is killed. A failed slot is replaced by a new one. At least one slot stays, and there
        are never more than mini-batches. The number of threads of children that start from now on follows the new number.
        """
        count = max(1, min(slots, self.settings.node.most_slots))
        with self._resizing:
            if number > self._as_of:
                before = self._variables(0)
                self._as_of, self._count = number, count
                if not self._are_interchangeable(count):
                    self._standby.stop()
                elif self._variables(0) != before:
                    self._standby.renew()
            return self.slots.resize(count, number)

    def _are_interchangeable(self, count: int) -> bool:
        """True when all *count* slots have the same environment, so that a standby child fits any of them."""
        return all(self._gpu_variables(index) == self._gpu_variables(0) for index in range(count))

    def _gpu_variables(self, index: int) -> dict[str, str]:
        return slot_environment(index, self._assigned_gpus, self._environment)

    def _variables(self, index: int) -> dict[str, str]:
        """Return all environment variables of the children of a slot."""
        options = self.settings.node
        threads = options.threads or max(1, self._cores // self._count)
        return with_thread_limit({**self._environment, **self._gpu_variables(index)}, threads, self._limits)

    def _factory(self, index: int) -> ChildFactory:
        return ChildFactory(self.settings, lambda: self._variables(index), self._scratch, self._process_log)

    def _create_slot(self, index: int, number: int) -> Slot:
        slot = Slot(number, self.settings, self._factory(index), self._standby, lambda: self.slots.try_retire(slot))
        return slot

    # The end

    def close(self, *, graceful: bool) -> list[str]:
        """Stop all children, with shutdown() when *graceful*; return the errors in shutdown().

        A child that is still starting never had a mini-batch and is killed. The rows of a node that holds some stay until
        ``remove``.
        """
        stopping = threading.Thread(target=self._standby.stop)
        stopping.start()
        problems = self.slots.close(graceful=graceful)
        stopping.join()
        self.log.close()
        if not self.settings.node.rows_are_remote:
            self.remove()
        return problems

    def remove(self) -> None:
        """Kill leftover script processes and remove the scratch folder; rows in it have been fetched."""
        self._guard.close()

    # Files and logs

    def read(self, folder: str, name: str, offset: int, length: int) -> bytes:
        """Return up to *length* bytes, from *offset* on, of a file in ``parts`` or ``logs``."""
        if folder not in _READABLE or Path(name).name != name:
            raise ValueError(f"{folder}/{name} is not a file of a run directory")
        path = Path(self.settings.run.directory, folder, name)
        if folder == "logs" and not path.exists():  # removed: only some of very many are kept
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def logs(self) -> dict[str, int]:
        """Return the size of every log that is not empty, bytes by name."""
        sizes: dict[str, int] = {}
        for path in Path(self.settings.run.directory, "logs").iterdir():
            with suppress(FileNotFoundError):  # removed: only some of very many are kept
                if path.is_file():  # a script may create folders there
                    sizes[path.name] = path.stat().st_size
        return {name: size for name, size in sizes.items() if size}


def _with_local_run_directory(settings: NodeSettings, scratch: str) -> NodeSettings:
    """Return settings with a run directory of the node's own, for a node that cannot see the flow process's one."""
    run_directory = Path(scratch, "run")
    for folder in _READABLE:
        (run_directory / folder).mkdir(parents=True)
    return replace(settings, run=replace(settings.run, directory=str(run_directory)))
