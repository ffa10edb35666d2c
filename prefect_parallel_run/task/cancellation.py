"""Finds out that a step which runs in a thread of its flow, or in another process, was cancelled.

In the main thread of the flow's process SIGTERM and Ctrl-C arrive as exceptions by themselves. A *submitted* step gets nothing:
left alone it would hold the flow process up until that is killed, or go on in a process of Dask, Ray or a pool. Two things tell
it: the state of its flow run, which the API sets to Cancelling first, and the flow's task runner, which is left by an exception
when the main thread got a signal.
Source: CONTRACT.md 8.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.exceptions import CancelledRun, PrefectException, TerminationSignal
from prefect.logging.handlers import APILogHandler
from prefect.task_runners import TaskRunner

from prefect_parallel_run._threads import Background

_SENDING = 5.0  #: s for events to be sent from a process that may end then
_EVERY = 3.0  #: s between two looks at the flow run's state


class Cancellation:
    """Looks, now and then, whether the run that this thread belongs to is wanted any more."""

    def __init__(self) -> None:
        flow, task = FlowRunContext.get(), TaskRunContext.get()
        is_main = threading.current_thread() is threading.main_thread()
        self._hears_signals = is_main and not (flow is not None and flow.detached)  # a detached flow runs in another process
        self._flow_run_id = flow.flow_run.id if flow is not None and flow.flow_run is not None else None
        runner = flow.task_runner if flow is not None else None
        # The event is private to Prefect's thread runner; without it the flow run's state still tells, a little later.
        events = getattr(runner, "_cancel_events", None) or {}
        self._event = events.get(task.task_run.id) if task is not None else None
        self._next = time.monotonic() + _EVERY
        self._question: Background[bool] | None = None  # that the API has been asked; a server that is away answers late

    def raise_if_wanted(self) -> None:
        """Raise TerminationSignal (an ordinary exception would be retried) once the run was cancelled."""
        if self._hears_signals:
            return
        if self._event is not None and self._event.is_set() and _runner_is_left_by_an_exception():
            raise TerminationSignal(signal.SIGTERM)
        if self._flow_run_id is not None and self._is_cancelled_in_the_api(self._flow_run_id):
            raise TerminationSignal(signal.SIGTERM)

    def _is_cancelled_in_the_api(self, flow_run_id: UUID) -> bool:
        """Return what the API has answered; it is asked now and then, and never waited for."""
        if self._question is None:
            if time.monotonic() >= self._next:
                context = copy_context()
                self._question = Background("cancellation", lambda _: context.run(_is_cancelled, flow_run_id)).start()
            return False
        if not self._question.is_over():
            return False
        answer = self._question.wait(lambda: None)
        self._question, self._next = None, time.monotonic() + _EVERY
        return answer


def _is_cancelled(flow_run_id: UUID) -> bool:
    """Ask the API. The client is the run's own, and is not entered: its count of who has is not for two threads."""
    try:
        state = get_client(sync_client=True).read_flow_run(flow_run_id).state
    except (httpx.HTTPError, PrefectException):
        return False  # a server that is away for a moment is no reason to stop
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@contextmanager
def in_any_process() -> Iterator[None]:
    """Let a step that runs in a process of Dask, of Ray or of a pool end as it would in its flow's.

    What it has told is sent before the process may be gone. A cancelled run ends by an ordinary exception: what is none ends
    the thread in which Prefect's process pool waits for results, and the flow would wait for ever.
    """
    if not _is_detached():
        yield
        return
    try:
        yield
    except TerminationSignal:
        raise CancelledRun("the flow run is being cancelled; what is finished is kept") from None
    finally:
        send_what_was_told()


def send_what_was_told() -> None:
    """Send log lines and events on, where the step runs in a process that may end as soon as it returns."""
    if _is_detached():
        APILogHandler().flush()
        EventsWorker.drain_all(timeout=_SENDING)


def _is_detached() -> bool:
    """True in a process of a task runner."""
    flow = FlowRunContext.get()
    return flow is not None and flow.detached


def _runner_is_left_by_an_exception() -> bool:
    """True when the main thread is leaving the flow's task runner because of an exception.

    The runner sets its cancel events also when a flow just ends without having waited for what it submitted; then Prefect
    lets tasks finish, and so do we.
    """
    main = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(main) if main is not None else None  # noqa: SLF001  no other way
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "__exit__" and isinstance(owner, TaskRunner):
            return frame.f_locals.get("exc_type") is not None
        frame = frame.f_back
    return False
