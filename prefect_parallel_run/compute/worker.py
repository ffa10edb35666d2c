"""A Dask worker as a process of its own, started by its file name; ends when the process that started it is gone.

Unlike a worker that multiprocessing spawns it does not import the user's flow again: it starts faster, and a flow file needs no
``if __name__ == "__main__"``. The first line of its standard input says which scheduler to join, and with which credentials:
other users of the machine can read command lines.
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


def _follow_parent(folder: str, scheduler: SimpleQueue[bytes]) -> None:
    """Hand on what standard input says: the *scheduler*, then what to start. When its other end is closed, end at once."""
    hand_on: Callable[[bytes], None] = scheduler.put
    rest = b""
    while block := os.read(0, 1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            hand_on(line)
            hand_on = _prepare_meanwhile
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # the guardians of our nodes find out, and end the children


def _prepare_meanwhile(settings: bytes) -> None:
    threading.Thread(target=_prepare, args=(settings,), daemon=True).start()


def _prepare(settings: bytes) -> None:
    """Start the children of a run, which comes when this worker has joined the scheduler."""
    from prefect_parallel_run.node.rpc import prepare_node  # noqa: PLC0415  after the watch on the parent began
    from prefect_parallel_run.node.settings import NodeSettings  # noqa: PLC0415  the same

    prepare_node(NodeSettings.from_json(settings))


def _work(scheduler: SimpleQueue[bytes], name: str, threads: int, folder: str) -> None:
    import dask.config  # noqa: PLC0415  seconds of import, after the watch on the parent began
    from distributed import Worker  # noqa: PLC0415  the same

    from prefect_parallel_run.compute.certificates import Credentials  # noqa: PLC0415  the same

    class PrivateWorker(Worker):  # type: ignore[misc]  # distributed is typed in part
        """A worker without HTTP pages, which every user of the machine could open."""

        def start_http_server(self, *_: Any, **__: Any) -> None:
            """Serve nothing."""

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
            memory_limit=0,  # the data is in our children; a worker that is paused would only stall them
        )
        await worker
        await worker.finished()

    dask.config.set({"distributed.worker.http.routes": []})  # nor imports what would show them
    given = json.loads(scheduler.get())
    asyncio.run(work(given["address"], Credentials(given["certificate"], given["key"])))


if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[2])]  # last: must not come before the standard library
    first_line: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_follow_parent, args=(sys.argv[3], first_line), daemon=True).start()
    _work(first_line, sys.argv[1], int(sys.argv[2]), sys.argv[3])
