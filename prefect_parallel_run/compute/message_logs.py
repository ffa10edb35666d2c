"""Shortens Dask's logs of sent messages, which would hold the leases in memory.

For debugging, Dask keeps the last thousand messages of every connection, up to a megabyte each. A lease with all its work is
such a message, twice: from the client to the scheduler, and from there to a worker.
"""

from __future__ import annotations

from collections import deque

from distributed import Client, Scheduler
from distributed.batched import BatchedSend
from distributed.diagnostics.plugin import SchedulerPlugin

_KEPT = 2  #: messages


class ShortMessageLogs(SchedulerPlugin):  # type: ignore[misc]  # distributed is typed in part
    """Shortens the scheduler's message log for a worker as soon as the worker joins."""

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Called by the scheduler with the address of every new worker."""
        _shorten(scheduler.stream_comms[worker])


def shorten_message_log(client: Client) -> None:
    """Shorten the log of the messages from *client* to its scheduler."""
    _shorten(client.scheduler_comm)


def _shorten(stream: BatchedSend) -> None:
    stream.recent_message_log = deque(maxlen=_KEPT)
