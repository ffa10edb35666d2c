"""A Dask worker as a process of its own, started by its file name; ends when the process that started it is gone.

Unlike a worker that multiprocessing spawns it does not import the user's flow again: it starts faster, and a flow file needs no
``if __name__ == "__main__"``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from pathlib import Path


def _follow_parent(folder: str) -> None:
    """Start what standard input tells to start; when its other end is closed, end at once."""
    line = b""
    while block := os.read(0, 1 << 16):
        line += block
        if line.endswith(b"\n"):
            threading.Thread(target=_prepare, args=(line,), daemon=True).start()
            line = b""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # the guardians of our nodes find out, and end the children


def _prepare(settings: bytes) -> None:
    """Start the children of a run, which comes when this worker has joined the scheduler."""
    from prefect_parallel_run.node.service import prepare_node  # noqa: PLC0415  after the watch on the parent began
    from prefect_parallel_run.node.settings import NodeSettings  # noqa: PLC0415  the same

    prepare_node(NodeSettings.from_json(settings))


async def _work(scheduler: str, name: str, threads: int, folder: str) -> None:
    from distributed import Worker  # noqa: PLC0415  seconds of import, after the watch on the parent began

    worker = Worker(
        scheduler,
        name=name,
        nthreads=threads,
        host="127.0.0.1",
        local_directory=folder,
        dashboard=False,
        dashboard_address="127.0.0.1:0",  # without, some versions listen on every interface all the same
        memory_limit=0,  # the data is in our children; a worker that is paused would only stall them
    )
    await worker
    await worker.finished()


if __name__ == "__main__":
    sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[2])]  # last: must not come before the standard library
    threading.Thread(target=_follow_parent, args=(sys.argv[4],), daemon=True).start()
    asyncio.run(_work(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
