"""``compute_target="local"``: a Dask cluster on this machine, private to this user and closed with the step."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Scheduler, SpecCluster
from distributed.batched import BatchedSend
from distributed.diagnostics.plugin import SchedulerPlugin

from prefect_parallel_run.compute.base import LEASE_KEY, Cluster, Request, leave, wait_for_workers
from prefect_parallel_run.compute.certificates import Credentials, new_credentials
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.cores import usable_cores
from prefect_parallel_run.node.gpus import default_slots, node_environment, visible_gpus
from prefect_parallel_run.node.settings import NodeSettings

_LOGGER = logging.getLogger(__name__)
_WORKER = Path(__file__).with_name("worker.py")
_LOOPBACK = "127.0.0.1"
_CLOSE_TIMEOUT = 5  #: s
_HEARTBEAT_INTERVAL = 2.0  #: s between two heartbeats of a worker, far less than the patience of dispatch/workers.py
_POLL_INTERVAL = 0.25  #: s between two checks for dead workers
_RESTARTS = 5  #: maximum restarts per worker
_IMPORTING = threading.Lock()
_KEPT = 2  #: messages that a message log keeps


class LocalTarget:
    """This machine; its nodes are worker processes that share its cores."""

    @contextmanager
    def open(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> Iterator[_LocalCluster]:
        """Open a cluster; its nodes share the machine's GPUs and, unless a number of slots is requested, its cores."""
        logging.getLogger("distributed").setLevel(logging.ERROR)
        logging.getLogger("distributed.scheduler").addFilter(_is_relevant)
        with ExitStack() as stack:
            try:
                if request.dashboard:
                    import_dashboard()
                cluster = _LocalCluster(request.nodes, request.slots, dashboard=request.dashboard)
                stack.callback(cluster.close)
                cluster.wait_for_first(request, cancelled, settings)
            except (OSError, RuntimeError) as error:
                raise ComputeTargetError("local", f"{type(error).__name__}: {error}") from error
            yield cluster


class _LocalCluster(Cluster):
    """A scheduler in this process, and workers that are restarted when they die."""

    is_here = True
    slots: int

    def __init__(self, nodes: int, slots: int | None, *, dashboard: bool) -> None:
        self.cores, gpus = usable_cores(nodes), visible_gpus(os.environ)
        self.slots = slots or default_slots(self.cores, gpus)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the cluster
        self._folder = tempfile.mkdtemp(prefix="parallel_run_workers_")
        self._closing = threading.Event()
        self._environments = [node_environment(number, nodes, gpus, os.environ) for number in range(nodes)]
        self._workers = [self._start(number) for number in range(nodes)]  # they import while the scheduler starts
        self._restarts = [0] * nodes
        try:
            credentials = new_credentials()
            self._scheduler, client = _open_scheduler(credentials, dashboard=dashboard)
        except BaseException:
            self._kill_workers()
            self._clean_up()
            raise
        super().__init__(client, self.slots)
        connection = {
            "address": self._scheduler.scheduler_address,
            "certificate": credentials.certificate,
            "key": credentials.key,
        }
        self._first_line = json.dumps(connection).encode("ascii") + b"\n"
        for worker in self._workers:
            _send_line(worker, self._first_line)
        self._monitor = threading.Thread(target=self._restart_dead_workers, name="restart-workers", daemon=True)
        self._monitor.start()

    def wait_for_first(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> None:
        """Wait for the first workers, and send *settings* to them meanwhile.

        Raises:
            ComputeTargetError: No worker stays alive, or none joined in time.
        """

        def count() -> int:
            joined = len(self._scheduler.scheduler.workers)  # read in this process, without messages
            if joined < request.first:
                self._check_restarts()
                if settings.done() and not self.prepared:
                    self._prepare(settings.result())
            return joined

        wait_for_workers("local", request, cancelled, count, interval=0.02)

    def _check_restarts(self) -> None:
        workers = zip(self._workers, self._restarts, strict=True)
        if all(restarts >= _RESTARTS and worker.poll() is not None for worker, restarts in workers):
            size = os.fstat(self._errors.fileno()).st_size
            output = os.pread(self._errors.fileno(), 2_000, max(size - 2_000, 0)).decode("utf-8", "replace")
            raise ComputeTargetError("local", f"no worker stays alive:\n{output}")

    def discard(self, worker: str) -> None:
        """Kill a worker; the monitor thread starts a replacement."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._workers[int(worker)].pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill the workers; their reapers kill the children."""
        self._closing.set()
        self._monitor.join()
        self._kill_workers()

    def close(self) -> None:
        """Close client, workers and scheduler. Their work is done: a timeout of Dask on a busy machine is not an error."""
        leave(self.client)
        self.abandon()
        try:
            self._scheduler.close(timeout=_CLOSE_TIMEOUT)
        except (OSError, asyncio.TimeoutError) as error:
            _LOGGER.debug("closing the scheduler failed: %s: %s", type(error).__name__, error)
        finally:
            self._clean_up()

    def _kill_workers(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def _clean_up(self) -> None:
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        for worker in self._workers:
            _close_lifeline(worker)

    def _prepare(self, settings: NodeSettings) -> None:
        """Send the settings, so that the nodes start their children before the workers have joined the scheduler."""
        for number, worker in enumerate(self._workers):
            node = settings.with_node(name=f"node-{number}", slots=settings.node.slots or self.slots, cores=self.cores)
            _send_line(worker, node.to_line())
        self.prepared = len(self._workers)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        threads = str(2 * self.slots + 1)  # for the leases of all slots, and one for leases that secede
        return subprocess.Popen(
            [sys.executable, str(_WORKER), str(number), threads, self._folder],
            stdin=subprocess.PIPE,  # closed when this process exits or is killed
            bufsize=0,  # a buffer with unread data of a dead worker could not be closed
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**os.environ, **self._environments[number], "DASK_LOGGING__DISTRIBUTED": "error"},
            start_new_session=True,  # so that only this process handles Ctrl-C, or a Prefect worker's SIGTERM to the group
        )

    def _restart_dead_workers(self) -> None:
        while not self._closing.wait(_POLL_INTERVAL):
            for number, worker in enumerate(self._workers):
                if worker.poll() is not None and self._restarts[number] < _RESTARTS:
                    _close_lifeline(worker)
                    self._restarts[number] += 1
                    self._workers[number] = self._start(number)
                    _send_line(self._workers[number], self._first_line)


class _PrivateScheduler(Scheduler):  # type: ignore[misc]  # distributed is typed in part
    """A scheduler without HTTP pages, which every user of the machine could read, and without what no step needs.

    The pages show its measurements, and it has no timeouts of its own.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for callback in ("tick", "ticks", "monitor", "idle-timeout", "no-workers-timeout"):  # tick: 50 times a second
            self.periodic_callbacks.pop(callback, None)

    def heartbeat_worker(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Request fewer heartbeats than Dask's two per second: here they only show that a worker is not frozen."""
        return {**super().heartbeat_worker(*arguments, **options), "heartbeat-interval": _HEARTBEAT_INTERVAL}

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do not start the HTTP server."""


class _ShortMessageLogs(SchedulerPlugin):  # type: ignore[misc]  # distributed is typed in part
    """Shortens the scheduler's message log for a worker as soon as the worker joins, so that leases do not stay in memory.

    For debugging, Dask keeps the last thousand messages of every connection, up to a megabyte each. A lease with all its
    work is such a message, twice: from the client to the scheduler, and from there to a worker.
    """

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Called by the scheduler with the address of every new worker."""
        _shorten_message_log(scheduler.stream_comms[worker])


def _shorten_message_log(stream: BatchedSend) -> None:
    stream.recent_message_log = deque(maxlen=_KEPT)


def _open_scheduler(credentials: Credentials, *, dashboard: bool) -> tuple[SpecCluster, Client]:
    """Start a scheduler in this process that accepts only the *credentials*; return it and a client."""
    security = credentials.security()
    options = {
        "host": _LOOPBACK,
        "port": 0,
        "protocol": "tls://",
        "security": security,
        "dashboard": dashboard,
        "dashboard_address": f"{_LOOPBACK}:0",
        "allowed_failures": 0,  # attempts are counted by the dispatcher, not by Dask
        "plugins": [_ShortMessageLogs()],
    }
    scheduler = {"cls": Scheduler if dashboard else _PrivateScheduler, "options": options}
    cluster = SpecCluster(workers={}, scheduler=scheduler, security=security, asynchronous=False)
    try:
        client = Client(cluster, asynchronous=False, set_as_default=False)
    except BaseException:
        cluster.close(timeout=_CLOSE_TIMEOUT)
        raise
    _shorten_message_log(client.scheduler_comm)
    return cluster, client


def import_dashboard() -> None:
    """Import the dashboard's modules; raises ValueError without bokeh.

    A scheduler would import them itself, but two that start in two threads fail: one sees a partly imported module.
    """
    with _IMPORTING:
        try:
            importlib.import_module("distributed.dashboard.scheduler")
        except ImportError as error:
            action = "pip install bokeh, or set dashboard to false"
            raise ValueError(f"dashboard is true, but bokeh cannot be imported ({error}); {action}") from error


def _send_line(worker: subprocess.Popen[bytes], line: bytes) -> None:
    """Write a line to a worker's standard input; if it dies meanwhile, its replacement receives the line again."""
    assert worker.stdin is not None  # noqa: S101  for the type checker: it was started with a pipe
    with contextlib.suppress(BrokenPipeError, ValueError):  # it has died, and its input may be closed already
        while line:
            line = line[worker.stdin.write(line) :]


def _close_lifeline(worker: subprocess.Popen[bytes]) -> None:
    if worker.stdin is not None:
        worker.stdin.close()


def _is_relevant(record: logging.LogRecord) -> bool:
    """False for Dask's messages about leases and calls that were lost with a worker: the run logs its own.

    A run that ends before its last node has opened would cause such messages too.
    """
    return LEASE_KEY not in record.getMessage() and not record.getMessage().startswith("broadcast to ")
