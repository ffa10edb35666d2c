"""The cluster that a step runs in: the one of its Dask worker, or of its flow's DaskTaskRunner."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from distributed import Security, get_worker, secede

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.scheduler import ExistingCluster, SchedulerTarget
from prefect_parallel_run.node.settings import NodeSettings


class EnclosingClusterTarget:
    """The workers of the cluster that the step was submitted to, or that its flow has opened.

    Args:
        address: Address of the scheduler.
        security: Certificates of the scheduler.
        is_inside: The step itself runs in a task of this cluster, and must not block a worker thread.
    """

    def __init__(self, address: str, security: Security | None, *, is_inside: bool) -> None:
        self._scheduler = SchedulerTarget(
            address, security=security, allow_insecure=True
        )  # this process already uses that connection
        self._is_inside = is_inside
        self.address = address

    @contextmanager
    def open(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> Iterator[ExistingCluster]:
        """Use the cluster's workers; see Target."""
        with self._scheduler.open(request, cancelled, settings) as cluster:
            yield cluster

    def secede(self) -> None:
        """Release the worker's thread for other tasks; must be called by the step's thread."""
        if self._is_inside:
            secede()


def surrounding_target(task_runner: Any) -> EnclosingClusterTarget | None:
    """Return the cluster of the calling thread, or None.

    Args:
        task_runner: Task runner of the flow that calls the step; only a DaskTaskRunner has a cluster.
    """
    try:
        worker = get_worker()
    except ValueError:
        client = getattr(task_runner, "_client", None) if type(task_runner).__name__ == "DaskTaskRunner" else None
        if client is None or client.scheduler is None:
            return None
        return EnclosingClusterTarget(str(client.scheduler.address), client.security, is_inside=False)
    return EnclosingClusterTarget(str(worker.scheduler.address), worker.security, is_inside=True)
