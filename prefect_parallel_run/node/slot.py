"""A slot: the place of one process on a node. It starts its child, feeds it, times it, kills it and starts the next."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from prefect_parallel_run.child.failure import fingerprint
from prefect_parallel_run.child.retry import STOP
from prefect_parallel_run.child.shared_memory import IDLE
from prefect_parallel_run.models import Receipt
from prefect_parallel_run.node.child_process import Child
from prefect_parallel_run.node.child_startup import ChildFactory, StartFailure, death_name, describe_exit
from prefect_parallel_run.node.process_log import ProcessRecord
from prefect_parallel_run.node.recall import Recall
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.node.standby import Spares

_GLANCE = 0.02  #: s between two looks at a child that is busy
_START_GLANCE = 0.005  #: s between two looks at a child that is starting
_RESTARTS = 3  #: starts in a row that may fail before the slot gives up; a slot's very first start is not repeated
_GOODBYE = 5.0  #: s for the interpreter to end after shutdown() has returned
_ANSWER_FIELDS = len(Receipt._fields)
_SHORT_ANSWER = Receipt._fields.index("node")  #: fields in the answer of a mini-batch that succeeded


class SlotUnusableError(Exception):
    """The slot has no child and cannot have one."""

    def __init__(self, failure: StartFailure) -> None:
        super().__init__(failure)
        self.failure = failure


class SlotStoppedError(Exception):
    """The slot was told to stop while it was working."""


class SlotRetiredError(Exception):
    """The slot has no child and is to have none: its script says that there are too many."""


class Work(NamedTuple):
    """One mini-batch to run, as it goes to the child."""

    mini_batch: int
    attempt: int
    line: bytes


class _Termination(NamedTuple):
    """Why a child must go, or has gone."""

    outcome: str
    mini_batch: int  #: the one that was running; IDLE when that must be asked again, of a child that has ended
    error_type: str
    error: str


class Slot:
    """Owns at most one child at a time.

    Args:
        number: Of the slot on its node.
        settings: Of the node.
        starter: Starts the children.
        spares: Has one, sometimes, that is started already.
        may_retire: Called when the script asks for one process less; False: this one is needed.
    """

    def __init__(
        self,
        number: int,
        settings: NodeSettings,
        starter: ChildFactory,
        spares: Spares,
        may_retire: Callable[[], bool] = lambda: False,
    ) -> None:
        self._number, self._settings, self._starter, self._spares = number, settings, starter, spares
        self._may_retire = may_retire
        self._departure = ""  # how the child goes, once it has said so
        self._not_before = 0.0  # when its successor's first mini-batch may begin (monotonic clock)
        self._child: Child | None = None
        self._life: ProcessRecord | None = None  # of the child
        self._started = 0  # children so far
        self._idle_deaths = 0
        self._recall = Recall()  # of the lease that is being run
        self._stop = 0  # one past its last mini-batch
        self._left: deque[Work] = deque()  # of it, what is not finished
        self._given_back: deque[Work] = deque()  # of it, what the child has still to answer, undone
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # between the thread that works and the one that stops

    def start(self) -> None:
        """Start a child and wait until its init() is done; raises SlotUnusableError."""
        failure = self._try_start()
        for _ in range(_RESTARTS - 1 if self._started > 1 else 0):
            if failure is None:
                break
            failure = self._try_start()
        if failure is not None:
            raise SlotUnusableError(failure)

    def run(self, works: Sequence[Work], receipts: list[tuple[Any, ...]], recall: Recall) -> None:
        """Run mini-batches in order and append one receipt (a tuple in the order of records.Receipt) for each.

        Receipts go to the caller's list, so that what is finished counts even when the slot fails or is stopped. When
        *recall* is asked, the mini-batch that is running is the last one.

        Raises:
            SlotUnusableError: No child can be started any more; a mini-batch without receipt has not been charged.
            SlotStoppedError: stop() was called.
            SlotRetiredError: The script has asked for one process less. The same holds.
        """
        self._recall, self._left, self._stop = recall, deque(works), works[-1].mini_batch + 1
        while self._left:
            if self._child is None:
                self.start()
                self._pass_the_pause_on()
            if self._left:  # not called back while the child started
                self._feed(receipts)

    def shut_down(self, reason: str = "shut_down") -> str:
        """Let the child call shutdown() and end, for *reason*; return what went wrong there, or an empty text."""
        child = self._child
        if child is None:
            return ""
        child.send([b'"shutdown"\n'])
        problem = self._goodbye(child)
        self._bury(reason if child.exit_status() is not None else "stopped")
        return problem

    def stop(self) -> None:
        """End the child at once; whoever is in run() gets SlotStoppedError. May be called from any thread."""
        self._stopping.set()
        with self._lock:
            if self._child is not None and self._life is not None:
                self._child.kill()
                self._life.has_ended("stopped", self._child.exit_status())

    def raise_if_stopping(self) -> None:
        """Raise SlotStoppedError once stop() was called."""
        if self._stopping.is_set():
            self._bury("stopped")
            raise SlotStoppedError

    # Starting

    def _try_start(self) -> StartFailure | None:
        self.raise_if_stopping()
        self._started += 1
        start = self._spares.take()
        if start is None:
            try:
                start = self._starter.start(f"{self._number}.{self._started}", self._number)
            except OSError as error:
                return StartFailure("spawn", type(error).__name__, f"{self._starter.interpreter}: {error}", "")
            start.call_init()
        with self._lock:
            self._child, self._life = start.child, start.life
        is_over = False
        while not is_over:
            is_over = start.look(_START_GLANCE)
            self.raise_if_stopping()
            if self._recall.is_open:
                self._give_back_from(0)
                self._given_back.clear()  # no child has them
        if start.failure is not None:
            self._bury("start_failed")
        else:
            start.enter(self._number)
        return start.failure

    # Working

    def _feed(self, receipts: list[tuple[Any, ...]]) -> None:
        """Have the child work on what is left until that is done or the child is; answered mini-batches are left no more."""
        child = self._child
        assert child is not None  # noqa: S101  run() has just started it; for the type checker
        child.send([work.line for work in self._left])
        while self._left or self._given_back:
            self._spares.tend(_running_for(child))  # first of all: the next one may die at once
            child.wait(_GLANCE)
            child.pump()
            begun = child.call_back() if self._recall.is_open else None
            verdict = self._take_answers(child, receipts) or self._judge(child)
            self.raise_if_stopping()
            if verdict is not None and self._end_child(child, verdict, receipts):
                return
            if self._departure:
                self._part_with(child)
                return
            if self._recall.is_urgent:
                self._drop_child()
                return
            if begun is not None and self._recall.is_open:
                self._give_back_from(int(bool(self._left) and self._left[0].mini_batch == begun))
        child.let_go_on()

    def _take_answers(self, child: Child, receipts: list[tuple[Any, ...]]) -> _Termination | None:
        """Move what is answered to *receipts*; a verdict when the answers make no sense."""
        try:
            for answer in child.answers():
                if answer[0] == "leave":
                    self._departure, self._not_before = answer[1:]
                elif answer[0] == "back":
                    self._take_back(answer[1])
                else:
                    receipts.append(self._receipt(answer, self._left[0], child.pid))
                    self._left.popleft()
                self._idle_deaths = 0
        except (ValueError, IndexError, TypeError) as error:
            return _Termination("died", IDLE, "ProtocolError", f"its process wrote something to our pipe: {error}")
        return None

    def _take_back(self, mini_batch: int) -> None:
        """Take note that the child has left a mini-batch undone; one that was thought to be running may be among them."""
        if self._recall.is_open:  # it was called back just now, and is quicker than we are
            self._give_back_from(0)
        undone = (self._left or self._given_back).popleft()
        if undone.mini_batch != mini_batch or not self._recall.is_answered:
            raise ValueError(f"mini-batch {mini_batch} came back out of turn")

    def _give_back_from(self, place: int) -> None:
        """Answer the recall: of what is left, all from *place* on."""
        works = list(self._left)
        self._left, self._given_back = deque(works[:place]), deque(works[place:])
        self._recall.answer(works[place].mini_batch if place < len(works) else self._stop)

    def _drop_child(self) -> None:
        """End a child whose work does not count any more."""
        self._recall.answer(self._stop)
        self._left.clear()
        self._bury("unneeded")

    def _receipt(self, answer: Any, work: Work, pid: int) -> tuple[Any, ...]:
        if len(answer) not in (_SHORT_ANSWER, _ANSWER_FIELDS) or (answer[0], answer[1]) != (
            work.mini_batch,
            work.attempt,
        ):
            raise ValueError(f"not the answer to mini-batch {work.mini_batch}")
        return (*answer[:_SHORT_ANSWER], self._settings.node, pid, *answer[_SHORT_ANSWER + 2 :])

    def _judge(self, child: Child) -> _Termination | None:
        """Return the verdict on a child that cannot go on, or None."""
        ended = child.exit_status()
        if ended is not None:
            words = "its process was killed" if ended < 0 else "its process ended"  # by what, or how, its name says
            return _Termination("died", IDLE, death_name(ended), words)
        index, begun = child.running()
        if index == IDLE:
            return None
        timeout = self._settings.run_invocation_timeout
        if time.monotonic() - begun > timeout:
            words = f"run() took over run_invocation_timeout = {timeout:g} s and its process was killed"
            return _Termination("timed_out", index, "InvocationTimeout", words)
        limit = self._settings.process_memory_limit
        if limit is not None and (resident := child.resident()) > limit:
            words = f"its process held {resident} bytes, over process_memory_limit = {limit}, and was killed"
            return _Termination("out_of_memory", index, "OutOfMemory", words)
        return None

    def _end_child(self, child: Child, verdict: _Termination, receipts: list[tuple[Any, ...]]) -> bool:
        """Kill the child and charge the one mini-batch that was running. False when it has just finished that one."""
        self._take_answers(child, receipts)  # what it finished meanwhile counts
        if self._departure:  # it ended because it said so
            return False
        running, begun = child.running()
        if verdict.outcome != "died" and running != verdict.mini_batch:
            return False
        child.stop_reading()
        # Telling where it is may wake it from the call it hangs in: from here on its answers do not count.
        stacks = child.stacks() if verdict.outcome == "timed_out" else ""
        child.kill()
        if self._left and self._left[0].mini_batch == running:
            receipts.append(self._charge(self._left.popleft(), verdict, stacks, begun, child.pid))
            self._idle_deaths = 0
        else:
            self._idle_deaths += 1
        self._bury(verdict.outcome)
        self._spares.child_ended()
        if self._idle_deaths >= _RESTARTS:
            words = f"while it waited for work {verdict.error}"
            raise SlotUnusableError(StartFailure("idle", verdict.error_type, words, ""))
        return True

    def _charge(self, work: Work, verdict: _Termination, stacks: str, begun: float, pid: int) -> tuple[Any, ...]:
        seconds = max(time.monotonic() - begun, 0.0)
        return tuple(
            Receipt.of_failure(
                work.mini_batch,
                work.attempt,
                verdict.outcome,
                started=time.time() - seconds,
                seconds=seconds,
                node=self._settings.node,
                pid=pid,
                error_type=verdict.error_type,
                error=verdict.error,
                traceback=stacks,
                fingerprint=fingerprint(verdict.outcome, verdict.error_type),
            )
        )

    # Ending

    def _part_with(self, child: Child) -> None:
        """Let a child go whose script asks for another process, or for one less; it calls shutdown() by itself."""
        how, self._departure = self._departure, ""
        if self._recall.is_open:  # shutdown() may take its time
            self._give_back_from(0)
        self._goodbye(child)
        goes = how == STOP and self._may_retire()
        self._bury("retired" if goes else "shut_down")
        if goes:
            raise SlotRetiredError

    def _pass_the_pause_on(self) -> None:
        """Have a new child wait where the one before was asked to."""
        if self._child is not None and self._not_before > time.monotonic():
            self._child.send([b'["sleep",%r]\n' % self._not_before])
        self._not_before = 0.0

    def _goodbye(self, child: Child) -> str:
        deadline = time.monotonic() + self._settings.init_timeout
        problem: str | None = None
        while (ended := child.exit_status()) is None:
            child.wait(_START_GLANCE)
            for answer in child.answers():
                problem, deadline = str(answer[1]), time.monotonic() + _GOODBYE
            if time.monotonic() > deadline:
                return problem or "shutdown() did not return and its process was killed"
            self.raise_if_stopping()
        for answer in child.answers():
            problem = str(answer[1])
        return problem if problem is not None else f"in shutdown() its process {describe_exit(ended)}"

    def _bury(self, reason: str) -> None:
        """Leave nothing of the child behind, and tell why it has ended."""
        with self._lock:
            child, life, self._child, self._life = self._child, self._life, None, None
        if child is not None and life is not None:
            child.kill()
            for folder in child.left_behind():
                life.loses(folder)
            life.has_ended(reason, child.exit_status())
            child.close()
        self._given_back.clear()


def _running_for(child: Child) -> float:
    """Return how long its mini-batch has been running, s."""
    index, begun = child.running()
    return 0.0 if index == IDLE else time.monotonic() - begun
