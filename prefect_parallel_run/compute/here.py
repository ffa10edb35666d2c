"""The default number of processes for nodes on this machine."""

from __future__ import annotations

import os

from dask.system import CPU_COUNT

from prefect_parallel_run.node.gpus import default_slots, visible_gpus


def default_local_slots(nodes: int) -> int:
    """Return the number of processes per node when *nodes* nodes share this machine."""
    return default_slots(max(1, CPU_COUNT // nodes), visible_gpus(os.environ))
