"""A cluster that opens in the background, while the input is planned."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

from prefect_parallel_run.compute.base import Cluster, Request, Target
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.runs.spec import StepSpec

_OPENING_GLANCE = 0.25  #: s between two looks at a cluster that opens


class ClusterStartup:
    """A cluster that opens once that has begun; at the end it is closed, or abandoned after an error."""

    def __init__(self, target: Target, spec: StepSpec) -> None:
        config = spec.config
        self._cancelled = threading.Event()
        self._settings: Future[NodeSettings] = Future()
        request = Request(
            nodes=config.node_count,
            at_least=config.min_nodes,
            slots=config.process_count_per_node,
            timeout=config.node_start_timeout,
            dashboard=config.dashboard,
        )
        self._context = target.open(request, self._cancelled, self._settings)
        self._opened: Future[Cluster] | None = None

    def __enter__(self) -> ClusterStartup:
        return self

    def begin(self) -> Future[Cluster]:
        """Start opening, if that has not begun."""
        if self._opened is None:
            with_thread = ThreadPoolExecutor(1, thread_name_prefix="open-cluster")
            self._opened = with_thread.submit(self._context.__enter__)
            with_thread.shutdown(wait=False)
        return self._opened

    def prepare(self, settings: NodeSettings) -> None:
        """Let the nodes start their children while the cluster opens."""
        self.begin()
        self._settings.set_result(settings)

    def wait(self, check_cancelled: Callable[[], None]) -> Cluster:
        """Return the open cluster."""
        opened = self.begin()
        while not wait_for([opened], timeout=_OPENING_GLANCE).done:
            check_cancelled()
        return opened.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._cancelled.set()
        if self._opened is None or self._opened.exception() is not None:
            return
        if kind is not None:
            self._opened.result().abandon()
        self._context.__exit__(None, None, None)
