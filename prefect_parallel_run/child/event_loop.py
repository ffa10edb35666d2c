"""The event loop of a script's coroutines: one for the whole life of the process, running while one of them is awaited."""

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import thread as pool
from contextlib import suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any, Callable, Coroutine, Iterable, Iterator, Optional, Set
from weakref import WeakSet

_PATIENCE = 5.0  #: s for cancelled tasks, asynchronous generators and threads to end: they may have connections to close
_KEEPS_TASKS: "ContextVar[bool]" = ContextVar("keeps_tasks", default=True)  # a task inherits it from the one that starts it


class TaskNotCancelled(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """Tasks of the script do not end when they are cancelled; the message names them."""

    def __init__(self, tasks: "Iterable[asyncio.Task[Any]]") -> None:
        names = "; ".join(sorted(map(_label, tasks)))
        super().__init__(
            f"a task still runs {_PATIENCE:g} s after it was cancelled: {names}; "
            "expected asyncio.CancelledError to end it; await the task, or raise the error again where it is caught"
        )


class ThreadNotEnded(Exception):  # noqa: N818  its name is shown to the user as the error's type
    """Threads of the event loop run on after its end; the message names them."""

    def __init__(self) -> None:
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
        names = "; ".join(map(_thread_label, threads)) or "a thread of the executor that the script has set"
        super().__init__(
            f"a thread still runs {_PATIENCE:g} s after the end of the event loop: {names}; "
            "expected the function given to asyncio.to_thread or run_in_executor to return; give its calls a timeout"
        )


class EventLoop:
    """Awaits what the script's functions return.

    The loop is the thread's current one only while it runs: code around it may have another.

    Attributes:
        stuck_tasks: Tasks that did not end when they were cancelled.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._create_task)
        self._kept: "WeakSet[asyncio.Task[Any]]" = WeakSet()
        self.stuck_tasks: "Set[asyncio.Task[Any]]" = set()
        self._ending: "Optional[threading.Thread]" = None  # runs the loop until its threads have ended

    def resolve(self, coroutine: "Coroutine[Any, Any, Any]", *, keeps_tasks: bool) -> Any:
        """Return the result of *coroutine*.

        Afterwards the tasks that it has started are cancelled, directly or through other tasks, unless it *keeps_tasks*: they
        would continue during the next mini-batch. Tasks that kept tasks start are kept too.

        Raises:
            TaskNotCancelled: One of them did not end; the coroutine's own exception takes precedence.
        """
        before = asyncio.all_tasks(self._loop)  # of a task factory that the script has set

        def started() -> "Set[asyncio.Task[Any]]":
            return set() if keeps_tasks else asyncio.all_tasks(self._loop).difference(before, self._kept)

        token = _KEEPS_TASKS.set(keeps_tasks)
        try:
            result = self._loop.run_until_complete(coroutine)
        except BaseException:
            with suppress(TaskNotCancelled):
                self._cancel(started)
            raise
        finally:
            _KEEPS_TASKS.reset(token)
        self._cancel(started)
        return result

    def close(self) -> None:
        """Cancel the tasks that are left, end asynchronous generators and threads, and close the loop.

        Raises:
            TaskNotCancelled: A task or a generator did not end, and is not among the stuck tasks yet.
            ThreadNotEnded: A thread did not end; the loop stays open until the next call.
        """
        if self._loop.is_closed():
            return
        try:
            if self._ending is None:
                self._cancel(self._unstuck)
                generators = self._loop.create_task(self._loop.shutdown_asyncgens())
                self._loop.run_until_complete(asyncio.wait({generators}, timeout=_PATIENCE))
                self._cancel(self._unstuck)
            self._end_threads()
        finally:
            if self._ending is None:
                self._loop.close()

    def _end_threads(self) -> None:
        """End the threads of the default executor. Before Python 3.12, the loop waits for them without a limit."""
        if self._ending is None:
            end = self._loop.shutdown_default_executor()
            self._ending = threading.Thread(target=self._loop.run_until_complete, args=(end,), daemon=True)
            self._ending.start()
        self._ending.join(_PATIENCE)
        if self._ending.is_alive():
            raise ThreadNotEnded
        self._ending = None

    def _unstuck(self) -> "Set[asyncio.Task[Any]]":
        return asyncio.all_tasks(self._loop) - self.stuck_tasks

    def _create_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        task = asyncio.Task(coroutine, loop=loop, **options)
        if _KEEPS_TASKS.get():
            self._kept.add(task)
        return task

    def _cancel(self, remaining: "Callable[[], Set[asyncio.Task[Any]]]") -> None:
        """Cancel the *remaining* tasks until there are none: one that is cancelled may start another."""
        deadline = time.monotonic() + _PATIENCE
        while tasks := remaining():
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                self.stuck_tasks |= tasks
                raise TaskNotCancelled(tasks)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=seconds))


def _label(task: "asyncio.Task[Any]") -> str:
    """Return the name of a task, and the line at which its coroutine waits."""
    return ", ".join([task.get_name(), *map(_line, task.get_stack())])


def _thread_label(thread: threading.Thread) -> str:
    """Return the name of a thread, and the lines of the function that it runs, innermost first."""
    innermost = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001  documented
    return ", ".join([thread.name, *map(_line, _frames(innermost))])


def _frames(frame: "Optional[FrameType]") -> "Iterator[FrameType]":
    """Yield the frames from *frame* outwards that the executor has called."""
    while frame is not None and frame.f_code.co_filename != pool.__file__:
        yield frame
        frame = frame.f_back


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_name}() in {os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno}"
