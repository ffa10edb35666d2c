"""``compute_target="local"``: a Dask cluster on this machine, on loopback only, gone with the step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from prefect_parallel_run.errors import ComputeTargetError

_LOOPBACK = "127.0.0.1"
_CLOSE_TIMEOUT = 5  #: s
_WORKER_TTL = 30.0  #: s without a heartbeat after which a worker counts as lost
_OWN_GROUP = "import os; os.setpgrp()"  # so that a Ctrl-C, or a Prefect worker's SIGTERM to the group, is ours to handle


class LocalTarget:
    """This machine; its nodes are worker processes that share its cores."""

    @contextmanager
    def open(self, nodes: int, slots: int | None) -> Iterator[_LocalCluster]:
        """Open a LocalCluster; without *slots* the machine's cores are shared out among the nodes."""
        slots = slots or max(1, CPU_COUNT // nodes)
        logging.getLogger("distributed").setLevel(logging.ERROR)
        quiet = {"distributed.nanny.pre-spawn-environ": {"DASK_LOGGING__DISTRIBUTED": "error"}}
        cluster = None
        try:
            with dask.config.set(quiet):
                cluster = LocalCluster(
                    n_workers=nodes,
                    threads_per_worker=2 * slots,  # a lease at work and one that waits behind it, per slot
                    processes=True,
                    host=_LOOPBACK,
                    dashboard_address=f"{_LOOPBACK}:0",
                    memory_limit=0,  # the data is in our children; a worker that is paused would only stall them
                    silence_logs=logging.ERROR,
                    asynchronous=False,
                    scheduler_kwargs={"allowed_failures": 0},  # tries are counted by us, not by Dask
                    preload=[_OWN_GROUP],
                )
            cluster.scheduler.worker_ttl = _WORKER_TTL
            client = Client(cluster, asynchronous=False, set_as_default=False)
        except (OSError, TimeoutError, RuntimeError) as error:
            if cluster is not None:
                cluster.close(timeout=_CLOSE_TIMEOUT)
            raise ComputeTargetError("local", f"{type(error).__name__}: {error}") from error
        opened = _LocalCluster(cluster, client, slots)
        try:
            yield opened
        finally:
            opened.close()


class _LocalCluster:
    """An open LocalCluster."""

    def __init__(self, cluster: LocalCluster, client: Client, slots: int) -> None:
        self._cluster = cluster
        self.client = client
        self.dashboard: str = cluster.dashboard_link
        self.slots = slots

    def abandon(self) -> None:
        """Kill the workers; their guardians end the children."""
        self._cluster.sync(self._kill_workers)

    async def _kill_workers(self) -> None:
        for nanny in self._cluster.workers.values():
            nanny.auto_restart = False
            if nanny.process is not None:
                await nanny.process.kill(timeout=0.1)

    def close(self) -> None:
        """Close client and cluster."""
        self.client.close(timeout=_CLOSE_TIMEOUT)
        self._cluster.close(timeout=_CLOSE_TIMEOUT)
