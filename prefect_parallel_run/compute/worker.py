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


def _end_with_parent(folder: str) -> None:
    """Wait until the other end of standard input is closed, and end at once."""
    while os.read(0, 1024):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # the guardians of our nodes find out, and end the children


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
    threading.Thread(target=_end_with_parent, args=(sys.argv[4],), daemon=True).start()
    asyncio.run(_work(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
