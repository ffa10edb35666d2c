"""Detects cancellation of a step that runs in a thread of its flow, or in another process.

In the main thread of the flow's process, SIGTERM and Ctrl-C arrive as exceptions. A *submitted* step receives nothing: it would
block the flow process until that is killed, or continue in a process of Dask, Ray or a pool. Two things reveal the
cancellation: the state of its flow run, which the API sets to Cancelling first, and the flow's task runner, whose block exits
with an exception if the main thread received a signal.
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

_FLUSH_TIMEOUT = 5.0  #: s to send events from a process that may exit afterwards
_POLL_INTERVAL = 3.0  #: s between two checks of the flow run's state


class Cancellation:
    """Checks regularly whether the run of this thread has been cancelled."""

    def __init__(self) -> None:
        flow, task = FlowRunContext.get(), TaskRunContext.get()
        is_main = threading.current_thread() is threading.main_thread()
        self._receives_signals = is_main and not (flow is not None and flow.detached)  # a detached flow runs in another process
        self._flow_run_id = flow.flow_run.id if flow is not None and flow.flow_run is not None else None
        runner = flow.task_runner if flow is not None else None
        # The event is private to Prefect's thread runner; without it the flow run's state reveals it a little later.
        events = getattr(runner, "_cancel_events", None) or {}
        self._event = events.get(task.task_run.id) if task is not None else None
        self._next = time.monotonic() + _POLL_INTERVAL
        self._request: Background[bool] | None = None  # a request to the API in progress; an unreachable server answers late

    def raise_if_cancelled(self) -> None:
        """Raise TerminationSignal (an ordinary exception would be retried) if the run has been cancelled."""
        if self._receives_signals:
            return
        if self._event is not None and self._event.is_set() and _runner_exits_with_exception():
            raise TerminationSignal(signal.SIGTERM)
        if self._flow_run_id is not None and self._poll_api(self._flow_run_id):
            raise TerminationSignal(signal.SIGTERM)

    def _poll_api(self, flow_run_id: UUID) -> bool:
        """Return the API's answer; polls it regularly in the background, without waiting."""
        if self._request is None:
            if time.monotonic() >= self._next:
                context = copy_context()
                self._request = Background("cancellation", lambda _: context.run(_is_cancelled, flow_run_id)).start()
            return False
        if not self._request.is_over():
            return False
        answer = self._request.wait()
        self._request, self._next = None, time.monotonic() + _POLL_INTERVAL
        return answer


def _is_cancelled(flow_run_id: UUID) -> bool:
    """Ask the API with the run's own client, without entering it: its count of entries is not thread-safe."""
    try:
        state = get_client(sync_client=True).read_flow_run(flow_run_id).state
    except (httpx.HTTPError, PrefectException):
        return False  # do not stop because the server is briefly unreachable
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@contextmanager
def flush_when_detached() -> Iterator[None]:
    """Make a step in a process of Dask, Ray or a pool end as it would in its flow's process.

    Its logs and events are sent before the process may exit. A cancelled run ends with an ordinary exception: any other
    would end the thread in which Prefect's process pool waits for results, and the flow would wait forever.
    """
    if not _is_detached():
        yield
        return
    try:
        yield
    except TerminationSignal:
        raise CancelledRun("the flow run is being cancelled; completed mini-batches are kept") from None
    finally:
        flush_logs_and_events()


def flush_logs_and_events() -> None:
    """Send log lines and events if the step runs in a process that may exit as soon as it returns."""
    if _is_detached():
        APILogHandler().flush()
        EventsWorker.drain_all(timeout=_FLUSH_TIMEOUT)


def _is_detached() -> bool:
    """True in a process of a task runner, where the flow itself does not run."""
    flow = FlowRunContext.get()
    return flow is not None and flow.detached


def _runner_exits_with_exception() -> bool:
    """True if the main thread is leaving the flow's task runner because of an exception.

    The runner also sets its cancel events if a flow ends without waiting for submitted tasks; then Prefect lets them finish,
    and so does the step.
    """
    main = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(main) if main is not None else None  # noqa: SLF001  Python has no public way to read another thread's frames
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "__exit__" and isinstance(owner, TaskRunner):
            return frame.f_locals.get("exc_type") is not None
        frame = frame.f_back
    return False
