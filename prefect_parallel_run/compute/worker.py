"""A Dask worker process, started by its file name; exits when the process that started it exits.

Unlike a worker that multiprocessing spawns it does not import the user's flow again: it starts faster, and a flow file does not
need ``if __name__ == "__main__"``. It reads the scheduler's address and the credentials from the first line of its standard
input, because other users of the machine can read command lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

_DASK_OPTIONS = {
    "distributed.worker.http.routes": [],  # avoids importing the modules of the HTTP pages
    "distributed.worker.profile.enabled": False,  # samples 100 times a second where the worker's threads wait
    "distributed.admin.tick.interval": "1s",  # a check of the event loop, by default 50 times a second
    "distributed.admin.system-monitor.interval": "5s",
}


def _follow_parent(folder: str, scheduler: SimpleQueue[bytes]) -> None:
    """Read standard input: a line for *scheduler*, then node settings. Exit immediately when its other end is closed."""
    handle: Callable[[bytes], None] = scheduler.put
    rest = b""
    while block := os.read(0, 1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            handle(line)
            handle = _prepare_in_background
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # the reapers of the nodes detect it, and kill the children


def _prepare_in_background(settings: bytes) -> None:
    threading.Thread(target=_prepare, args=(settings,), daemon=True).start()


def _prepare(settings: bytes) -> None:
    """Start the children of a run before this worker has joined the scheduler."""
    from prefect_parallel_run.node.rpc import prepare_node  # noqa: PLC0415  the thread that follows the parent must run first
    from prefect_parallel_run.node.settings import NodeSettings  # noqa: PLC0415  that thread must run first

    prepare_node(NodeSettings.from_line(settings))


def _work(scheduler: SimpleQueue[bytes], name: str, threads: int, folder: str) -> None:
    import dask.config  # noqa: PLC0415  seconds of import: the thread that follows the parent must run first
    from distributed import Worker  # noqa: PLC0415  seconds of import

    # The first call needs rpc. Imported before this worker joins: children of settings that have arrived then start first.
    import prefect_parallel_run.node.rpc  # noqa: F401, PLC0415  imports distributed
    from prefect_parallel_run.compute.certificates import Credentials  # noqa: PLC0415  imports distributed

    class PrivateWorker(Worker):  # type: ignore[misc]  # distributed is typed in part
        """A worker without HTTP pages, which every user of the machine could read."""

        def start_http_server(self, *_: Any, **__: Any) -> None:
            """Do not start the HTTP server."""

    async def work(address: str, credentials: Credentials) -> None:
        worker = PrivateWorker(
            address,
            name=name,
            nthreads=threads,
            host="127.0.0.1",
            protocol="tls://",
            security=credentials.security(),
            local_directory=folder,
            dashboard=False,
            memory_limit=0,  # the data is in the children; pausing the worker would only stall them
        )
        await worker
        await worker.finished()

    dask.config.set(_DASK_OPTIONS)
    connection = json.loads(scheduler.get())
    asyncio.run(work(connection["address"], Credentials(connection["certificate"], connection["key"])))


if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[2])]  # last: must not precede the standard library
    first_line: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_follow_parent, args=(sys.argv[3], first_line), daemon=True).start()
    _work(first_line, sys.argv[1], int(sys.argv[2]), sys.argv[3])
