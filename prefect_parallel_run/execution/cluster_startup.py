"""Opens the cluster in the background while the input is planned."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

from prefect_parallel_run._threads import CheckCancelled, begin
from prefect_parallel_run.compute.base import Cluster, Request, Target
from prefect_parallel_run.node.settings import NodeSettings
from prefect_parallel_run.runs.spec import StepSpec

_POLL_INTERVAL = 0.25  #: s between two cancellation checks while the cluster opens


class ClusterStartup:
    """Opens a cluster on demand; on exit it is closed, or abandoned after an error."""

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

    def start(self) -> Future[Cluster]:
        """Start to open the cluster, unless that has started."""
        if self._opened is None:
            self._opened = begin(self._context.__enter__, name="open-cluster")
        return self._opened

    def prepare(self, settings: NodeSettings) -> None:
        """Let nodes start their children while the cluster opens."""
        self.start()
        self._settings.set_result(settings)

    def wait(self, check_cancelled: CheckCancelled) -> Cluster:
        """Wait for the open cluster; *check_cancelled* is called meanwhile."""
        opened = self.start()
        while not wait_for([opened], timeout=_POLL_INTERVAL).done:
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
