"""A slot: a node's place for one child process. It starts the child, sends it mini-batches, enforces limits and replaces it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple

from prefect_parallel_run.child.channel import IDLE
from prefect_parallel_run.child.failure import STOP, fingerprint
from prefect_parallel_run.models import Outcome, Receipt
from prefect_parallel_run.node.child_process import Child, death_name, describe_exit
from prefect_parallel_run.node.child_startup import ChildFactory, StandbyChild, StartFailure, Startup
from prefect_parallel_run.node.settings import NodeSettings

_POLL_INTERVAL = 0.02  #: s, for a child that answers often, or whose memory is limited
_QUIET_POLL_INTERVAL = 0.1  #: s, for a child in a longer run(); its exit, its end of work and a recall end the wait at once
_STARTUP_POLL_INTERVAL = 0.005  #: s, for a child that is starting
_MAX_FAILED_STARTS = 3  #: in a row, before the slot fails; a slot's very first start is not retried
_EXIT_GRACE = 5.0  #: s for the interpreter to exit after shutdown() has returned


class SlotUnusableError(Exception):
    """The slot has no child and cannot start one."""

    def __init__(self, failure: StartFailure) -> None:
        super().__init__(failure)
        self.failure = failure


class SlotStoppedError(Exception):
    """The slot was stopped while it was running mini-batches."""


class SlotRetiredError(Exception):
    """The slot has no child and stays empty: its script asked for one process less."""


class Work(NamedTuple):
    """One mini-batch to run, as it is sent to the child."""

    mini_batch: int
    attempt: int
    line: bytes

    @classmethod
    def of(cls, mini_batch: int, attempt: int, work: bytes, piece: tuple[int, int] | None = None) -> Work:
        """Return the message for a mini-batch with this ``work`` of the plan; with *piece*, only for these of its items."""
        only = b"" if piece is None else b",[%d,%d]" % piece
        return cls(mini_batch, attempt, b"[%d,%d,%b%b]\n" % (mini_batch, attempt, work, only))


class _Termination(NamedTuple):
    """Why a child must be killed, or has died."""

    outcome: Outcome
    mini_batch: int  #: the one that was running; IDLE when it must be read again, after the child has exited
    error_type: str
    error: str


class Slot:
    """Owns at most one child at a time: the node's standby child, or one that *factory* starts.

    When the script asks for one process less, *may_retire* returns False if this slot is needed.
    """

    def __init__(
        self,
        number: int,
        settings: NodeSettings,
        factory: ChildFactory,
        standby: StandbyChild,
        may_retire: Callable[[], bool] = lambda: False,
    ) -> None:
        self._number, self._settings, self._factory, self._standby = number, settings, factory, standby
        self._may_retire = may_retire
        self._exit_request = ""  # what the child asked for before exiting: to be replaced, or to be retired
        self._not_before = 0.0  # earliest start of the next child's first mini-batch (monotonic clock)
        self._startup: Startup | None = None  # of the child
        self._started = 0  # children so far
        self._idle_deaths = 0
        self._recall = RecallRequest()  # of the current lease
        self._stop = 0  # one past the lease's last mini-batch
        self._pending: deque[Work] = deque()  # its unfinished mini-batches
        self._recalled: deque[Work] = deque()  # recalled mini-batches that the child has yet to return
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # between the thread in run() and the one in stop()

    def start(self) -> Child:
        """Start a child and wait for its init(); raises SlotUnusableError."""
        remaining = _MAX_FAILED_STARTS if self._started else 1
        while True:
            remaining -= 1
            try:
                return self._try_start()
            except SlotUnusableError:
                if not remaining:
                    raise

    def run(self, works: Sequence[Work], receipts: list[Receipt], recall: RecallRequest) -> None:
        """Run mini-batches in order and append one receipt for each.

        Receipts are appended to the caller's list, so that finished mini-batches count even when the slot fails or is stopped.
        Once *recall* is requested, the running mini-batch is the last one.

        Raises:
            SlotUnusableError: No child can be started; a mini-batch without a receipt was not charged an attempt.
            SlotStoppedError: stop() was called.
            SlotRetiredError: The script asked for one process less; a mini-batch without a receipt was not charged either.
        """
        self._recall, self._pending, self._stop = recall, deque(works), works[-1].mini_batch + 1
        while self._pending:
            child = self._child
            if child is None:
                child = self.start()
                if self._not_before > time.monotonic():  # its predecessor's script asked for a pause
                    child.send([b'["sleep",%r]\n' % self._not_before])
                self._not_before = 0.0
            if self._pending:  # not recalled while the child started
                self._run_pending(child, receipts)

    def shut_down(self, reason: str = "shut_down") -> str:
        """Have the child call shutdown() and exit, for *reason*; return the error in shutdown(), or an empty string."""
        child = self._child
        if child is None:
            return ""
        child.send([b'"shutdown"\n'])
        problem = self._await_exit(child)
        self._discard_child(reason if child.exit_status() is not None else "stopped")
        return problem

    def stop(self) -> None:
        """Kill the child; run() raises SlotStoppedError in its thread. May be called from any thread."""
        self._stopping.set()
        with self._lock:
            if self._startup is not None:
                self._startup.child.kill()
                self._startup.record.ended("stopped", self._startup.child.exit_status())

    def raise_if_stopping(self) -> None:
        """Raise SlotStoppedError once stop() was called."""
        if self._stopping.is_set():
            self._discard_child("stopped")
            raise SlotStoppedError

    @property
    def _child(self) -> Child | None:
        return None if self._startup is None else self._startup.child

    # Starting

    def _try_start(self) -> Child:
        self.raise_if_stopping()
        self._started += 1
        try:
            startup = self._standby.acquire() or self._factory.start(f"{self._number}.{self._started}", self._number)
        except OSError as error:
            failure = StartFailure("spawn", type(error).__name__, f"{self._factory.interpreter}: {error}", "")
            raise SlotUnusableError(failure) from error
        with self._lock:
            self._startup = startup
        self._await_ready(startup)
        if startup.failure is not None:
            self._discard_child()
            raise SlotUnusableError(startup.failure)
        startup.mark_ready(self._number)
        return startup.child

    def _await_ready(self, startup: Startup) -> None:
        is_done = False
        while not is_done:
            is_done = startup.poll(_STARTUP_POLL_INTERVAL)
            self.raise_if_stopping()
            if self._recall.is_pending:
                self._answer_recall(0)
                self._recalled.clear()  # no child has received them

    # Working

    def _run_pending(self, child: Child, receipts: list[Receipt]) -> None:
        """Run the pending mini-batches until all are answered or the child has exited; each answer removes one."""
        self._recall.interrupts = child.interrupt_wait
        child.send([work.line for work in self._pending])
        answered = -1
        while self._pending or self._recalled:
            self._standby.maintain(_busy_seconds(child))  # first of all: the next child may die immediately
            child.wait(self._until_next_check(child, is_quiet=answered == len(receipts)))
            child.pump()
            answered = len(receipts)
            started = child.recall() if self._recall.is_pending else None
            termination = self._collect_answers(child, receipts) or self._check_limits(child)
            self.raise_if_stopping()
            if termination is not None and self._terminate(child, termination, receipts):
                return
            if self._exit_request:
                self._release_child(child)
                return
            if self._recall.is_urgent:  # the running mini-batch is no longer needed
                self._recall.answer(self._stop)
                self._pending.clear()
                self._discard_child("unneeded")
                return
            if started is not None and self._recall.is_pending:
                self._answer_recall(int(bool(self._pending) and self._pending[0].mini_batch == started))
        child.resume()

    def _until_next_check(self, child: Child, *, is_quiet: bool) -> float:
        """Return how long to wait for the child, s: until its mini-batch reaches the timeout, or until the next poll."""
        limits = self._settings.limits
        interval = _QUIET_POLL_INTERVAL if is_quiet and limits.memory is None else _POLL_INTERVAL
        return min(interval, max(limits.run_invocation_timeout - _busy_seconds(child), _STARTUP_POLL_INTERVAL))

    def _collect_answers(self, child: Child, receipts: list[Receipt]) -> _Termination | None:
        """Move answered mini-batches to *receipts*; return a termination when the answers are invalid."""
        try:
            for answer in child.answers():
                if answer[0] == "leave":
                    self._exit_request, self._not_before = answer[1:]
                elif answer[0] == "back":
                    self._accept_returned(answer[1])
                else:
                    receipts.append(self._receipt(answer, self._pending[0], child.pid))
                    self._pending.popleft()
                self._idle_deaths = 0
        except (ValueError, LookupError, TypeError) as error:
            message = f"the process wrote invalid data to its answer pipe: {error}"
            return _Termination(Outcome.DIED, IDLE, "ProtocolError", message)
        return None

    def _accept_returned(self, mini_batch: int) -> None:
        """Record that the child returned a mini-batch without running it, which may be one that was assumed to be running."""
        if self._recall.is_pending:  # just recalled, and the child answered before this thread did
            self._answer_recall(0)
        returned = (self._pending or self._recalled).popleft()
        if returned.mini_batch != mini_batch or not self._recall.is_answered:
            raise ValueError(f"mini-batch {mini_batch} was returned out of order")

    def _answer_recall(self, index: int) -> None:
        """Answer the recall: return the pending mini-batches from *index* on."""
        works = list(self._pending)
        self._pending, self._recalled = deque(works[:index]), deque(works[index:])
        self._recall.answer(works[index].mini_batch if index < len(works) else self._stop)

    def _receipt(self, answer: Sequence[object], work: Work, pid: int) -> Receipt:
        receipt = Receipt.of_answer(answer, self._settings.node.name, pid)
        if (receipt.mini_batch, receipt.attempt) != (work.mini_batch, work.attempt):
            raise ValueError(f"expected the answer to mini-batch {work.mini_batch}")
        return receipt

    def _check_limits(self, child: Child) -> _Termination | None:
        """Return why the child has died or must be killed, or None."""
        status = child.exit_status()
        if status is not None:
            message = "its process was killed" if status < 0 else "its process exited"  # the error type names the signal
            return _Termination(Outcome.DIED, IDLE, death_name(status), message)
        index, started = child.running()
        if index == IDLE:
            return None
        timeout = self._settings.limits.run_invocation_timeout
        if time.monotonic() - started > timeout:
            message = f"run() exceeded run_invocation_timeout = {timeout:g} s and its process was killed"
            return _Termination(Outcome.TIMED_OUT, index, "InvocationTimeout", message)
        limit = self._settings.limits.memory
        resident = 0 if limit is None or self._startup is None else self._startup.record.resident()
        if limit is not None and resident > limit:
            message = f"its process used {resident} bytes, over process_memory_limit = {limit}, and was killed"
            return _Termination(Outcome.OUT_OF_MEMORY, index, "OutOfMemory", message)
        return None

    def _terminate(self, child: Child, termination: _Termination, receipts: list[Receipt]) -> bool:
        """Kill the child and charge the running mini-batch an attempt; return False if that one has just finished."""
        self._collect_answers(child, receipts)  # mini-batches finished meanwhile count
        if self._exit_request:  # the child exited as it had announced
            return False
        running, started = child.running()
        if termination.outcome != Outcome.DIED and running != termination.mini_batch:
            return False
        child.stop_reading()
        # Reading the stacks may wake the child from the call it hangs in: its answers no longer count from here on.
        stacks = child.stacks() if termination.outcome == Outcome.TIMED_OUT else ""
        child.kill()
        if self._pending and self._pending[0].mini_batch == running:
            receipts.append(self._failure_receipt(self._pending.popleft(), termination, stacks, started, child.pid))
            self._idle_deaths = 0
        else:
            self._idle_deaths += 1
        self._discard_child(str(termination.outcome))
        self._standby.child_ended()
        if self._idle_deaths >= _MAX_FAILED_STARTS:
            message = f"while it waited for work {termination.error}"
            raise SlotUnusableError(StartFailure("idle", termination.error_type, message, ""))
        return True

    def _failure_receipt(self, work: Work, termination: _Termination, stacks: str, began: float, pid: int) -> Receipt:
        seconds = max(time.monotonic() - began, 0.0)
        return Receipt.of_failure(
            work.mini_batch,
            work.attempt,
            termination.outcome,
            started=time.time() - seconds,
            seconds=seconds,
            node=self._settings.node.name,
            pid=pid,
            error_type=termination.error_type,
            error=termination.error,
            traceback=stacks,
            fingerprint=fingerprint(termination.outcome, termination.error_type),
        )

    # Ending

    def _release_child(self, child: Child) -> None:
        """Replace or retire a child at its script's request; the child calls shutdown() by itself."""
        request, self._exit_request = self._exit_request, ""
        if self._recall.is_pending:  # shutdown() may be slow
            self._answer_recall(0)
        self._await_exit(child)
        retires = request == STOP and self._may_retire()
        self._discard_child("retired" if retires else "shut_down")
        if retires:
            raise SlotRetiredError

    def _await_exit(self, child: Child) -> str:
        deadline = time.monotonic() + self._settings.limits.init_timeout
        problem: str | None = None
        while (status := child.exit_status()) is None:
            child.wait(_STARTUP_POLL_INTERVAL)
            for answer in child.answers():
                problem, deadline = str(answer[1]), time.monotonic() + _EXIT_GRACE
            if time.monotonic() > deadline:
                if problem is None:
                    return "shutdown() did not return and its process was killed"
                return problem or "its process did not exit after shutdown() and was killed"
            self.raise_if_stopping()
        for answer in child.answers():
            problem = str(answer[1])
        return problem if problem is not None else f"in shutdown() its process {describe_exit(status)}"

    def _discard_child(self, reason: str = "") -> None:
        with self._lock:
            startup, self._startup = self._startup, None
        if startup is not None:
            startup.discard(reason)
        self._recalled.clear()


def _busy_seconds(child: Child) -> float:
    """Return how long the child's mini-batch has been running, s."""
    index, started = child.running()
    return 0.0 if index == IDLE else time.monotonic() - started


class RecallRequest:
    """A request and its one answer. Any thread may make it; the thread that runs the lease answers."""

    def __init__(self, lease: int = 0) -> None:
        self.lease = lease
        self._requested = threading.Event()
        self._answer: Future[int] = Future()
        self.is_urgent = False  #: the running mini-batch is no longer needed either
        self.interrupts: Callable[[], None] = lambda: None  #: called by each request

    def request(self, *, at_once: bool) -> Future[int]:
        """Make the request; the future gives the number of the first returned mini-batch."""
        self.is_urgent = self.is_urgent or at_once
        self._requested.set()
        self.interrupts()
        return self._answer

    @property
    def is_pending(self) -> bool:
        """True while the request awaits its answer."""
        return self._requested.is_set() and not self._answer.done()

    @property
    def is_answered(self) -> bool:
        """True once answered: no further mini-batch of the lease may start."""
        return self._answer.done()

    def answer(self, first: int) -> None:
        """Return the mini-batches from *first* on: none of them has started or will. Only the first answer counts."""
        with suppress(InvalidStateError):
            self._answer.set_result(first)
