"""The cluster that a step finds itself in: that of the Dask worker it runs on, or of its flow's DaskTaskRunner."""

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
    """The workers of a cluster that the step was sent to, or that its flow has opened.

    Args:
        address: Of the scheduler.
        security: Its certificates.
        is_inside: The step itself runs in a task of this cluster, and must not keep a thread from the others.
    """

    def __init__(self, address: str, security: Security | None, *, is_inside: bool) -> None:
        self._scheduler = SchedulerTarget(address, security=security, allow_insecure=True)  # we are in it already
        self._is_inside = is_inside
        self.address = address

    @contextmanager
    def open(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> Iterator[ExistingCluster]:
        """Use the workers that it has; see Target."""
        with self._scheduler.open(request, cancelled, settings) as cluster:
            yield cluster

    def secede(self) -> None:
        """Leave the worker's thread to other tasks; to be called by the thread that the step runs in."""
        if self._is_inside:
            secede()


def surrounding_target(task_runner: Any) -> EnclosingClusterTarget | None:
    """Return the cluster that the calling thread works for, or None.

    Args:
        task_runner: Of the flow that the step is called in; only a DaskTaskRunner has a cluster.
    """
    try:
        worker = get_worker()
    except ValueError:
        client = getattr(task_runner, "_client", None) if type(task_runner).__name__ == "DaskTaskRunner" else None
        if client is None or client.scheduler is None:
            return None
        return EnclosingClusterTarget(str(client.scheduler.address), client.security, is_inside=False)
    return EnclosingClusterTarget(str(worker.scheduler.address), worker.security, is_inside=True)
