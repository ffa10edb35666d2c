"""How many processes nodes of this machine have when nobody says it."""

from __future__ import annotations

import os

from dask.system import CPU_COUNT

from prefect_parallel_run.node.gpus import default_slots, visible_gpus


def slots_here(nodes: int) -> int:
    """Return the processes of each of *nodes* that share this machine."""
    return default_slots(max(1, CPU_COUNT // nodes), visible_gpus(os.environ))
