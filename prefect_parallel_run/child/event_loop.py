"""The event loop of a script's coroutines: one for the whole life of the process, running while one of them is awaited."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Optional, Set

if TYPE_CHECKING:
    import asyncio


class EventLoop:
    """Awaits what the script's functions return. The first coroutine creates the loop: others need no import of asyncio."""

    def __init__(self) -> None:
        self._loop: "Optional[asyncio.AbstractEventLoop]" = None

    def resolve(self, value: Any) -> Any:
        """Return the result of *value* if it is a coroutine, else *value*.

        When the coroutine raises, the tasks that it has started are cancelled: they would slow down the next mini-batch.
        """
        if not isinstance(value, Coroutine):
            return value
        import asyncio  # noqa: PLC0415  takes 50 ms of a process's start

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        before = asyncio.all_tasks(self._loop)
        try:
            return self._loop.run_until_complete(value)
        except BaseException:
            self._cancel(asyncio.all_tasks(self._loop) - before)
            raise

    def _cancel(self, tasks: "Set[asyncio.Task[Any]]") -> None:
        import asyncio  # noqa: PLC0415  see above

        for task in tasks:
            task.cancel()
        if tasks and self._loop is not None:
            self._loop.run_until_complete(asyncio.wait(tasks))

    def close(self) -> None:
        """Cancel the tasks that are left, and close the loop."""
        if self._loop is None:
            return
        import asyncio  # noqa: PLC0415  see above

        loop = self._loop
        self._cancel(asyncio.all_tasks(loop))
        loop.run_until_complete(loop.shutdown_asyncgens())
        self._loop = None
        asyncio.set_event_loop(None)
        loop.close()
