"""``compute_target="local"``: a Dask cluster on this machine, which no other user can connect to, gone with the step."""

from __future__ import annotations

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
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, Scheduler, SpecCluster

from prefect_parallel_run.compute.base import LEASE_KEY, Request
from prefect_parallel_run.compute.certificates import Credentials, new_credentials
from prefect_parallel_run.compute.message_logs import ShortMessageLogs, shorten_message_log
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.gpus import default_slots, node_environment, visible_gpus
from prefect_parallel_run.node.settings import NodeSettings

_WORKER = Path(__file__).with_name("worker.py")
_LOOPBACK = "127.0.0.1"
_CLOSE_TIMEOUT = 5  #: s
_LOOK = 0.25  #: s between two looks at the workers
_RESTARTS = 5  #: times that a worker which died is started again, per node
_IMPORTING = threading.Lock()


class LocalTarget:
    """This machine; its nodes are worker processes that share its cores."""

    @contextmanager
    def open(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> Iterator[_LocalCluster]:
        """Open a cluster; the machine's GPUs and, where no number of slots is asked for, its cores are shared out."""
        nodes, gpus = request.nodes, visible_gpus(os.environ)
        slots = request.slots or default_slots(max(1, CPU_COUNT // nodes), gpus)
        logging.getLogger("distributed").setLevel(logging.ERROR)
        logging.getLogger("distributed.scheduler").addFilter(_is_news)
        cluster: _LocalCluster | None = None
        try:
            if request.dashboard:
                import_dashboard()
            cluster = _LocalCluster(nodes, slots, gpus, dashboard=request.dashboard)
            cluster.wait_for_workers(request, cancelled, settings)
        except BaseException as error:
            if cluster is not None:
                cluster.close()
            if isinstance(error, OSError | TimeoutError | RuntimeError):
                raise ComputeTargetError("local", f"{type(error).__name__}: {error}") from error
            raise
        try:
            yield cluster
        finally:
            cluster.close()


class _LocalCluster:
    """A scheduler in this process, and workers that are started again when they die."""

    is_here = True
    is_elastic = False

    def __init__(self, nodes: int, slots: int, gpus: tuple[str, ...], *, dashboard: bool) -> None:
        self.slots = slots
        self.prepared = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the cluster
        self._folder = tempfile.mkdtemp(prefix="parallel_run_workers_")
        self._closing = threading.Event()
        self._environments = [node_environment(number, nodes, gpus, os.environ) for number in range(nodes)]
        self._workers = [self._start(number) for number in range(nodes)]  # they import while the scheduler opens
        self._restarts = [0] * nodes
        try:
            credentials = new_credentials()
            self._scheduler, self.client = _open_scheduler(credentials, dashboard=dashboard)
        except BaseException:
            self._kill_workers()
            self._clean_up()
            raise
        self.dashboard: str = self._scheduler.dashboard_link if dashboard else ""
        to_join = {"address": self._scheduler.scheduler_address, "certificate": credentials.certificate, "key": credentials.key}
        self._first_line = json.dumps(to_join).encode("ascii") + b"\n"
        for worker in self._workers:
            _tell(worker, self._first_line)
        self._keeper = threading.Thread(target=self._keep, name="keep-workers", daemon=True)
        self._keeper.start()

    def wait_for_workers(self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]) -> None:
        """Return when workers have come up, or at the timeout when one has; meanwhile they are told the *settings*.

        Raises:
            RuntimeError, TimeoutError: No worker can, or does.
        """
        deadline = time.monotonic() + request.timeout
        while (there := len(self.client.nthreads())) < request.first:
            workers = zip(self._workers, self._restarts, strict=True)
            if all(restarts >= _RESTARTS and worker.poll() is not None for worker, restarts in workers):
                raise RuntimeError(f"no worker stays alive:\n{self._last_words()}")
            if settings.done() and not self.prepared:
                self._prepare(settings.result())
            if cancelled.is_set():
                raise RuntimeError("nobody waits for it any more")
            if time.monotonic() > deadline:
                if there:
                    return
                raise TimeoutError(f"no worker came up within node_start_timeout = {request.timeout:g} s")
            time.sleep(0.02)

    def scale(self, nodes: int) -> None:
        """Nothing: all are here."""

    def release(self, workers: Collection[str]) -> None:
        """Nothing: they cost nothing."""

    def discard(self, worker: str) -> None:
        """Kill a worker; the keeper starts another one in its place."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._workers[int(worker)].pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill the workers; their guardians end the children."""
        self._closing.set()
        self._keeper.join()
        self._kill_workers()

    def close(self) -> None:
        """Close client, workers and scheduler."""
        self.client.close(timeout=_CLOSE_TIMEOUT)
        self.abandon()  # what they had to do is done
        self._scheduler.close(timeout=_CLOSE_TIMEOUT)
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
        """Have the nodes start their children while the workers are still on their way to the scheduler."""
        for number, worker in enumerate(self._workers):
            _tell(worker, replace(settings, node=f"node-{number}", slots=settings.slots or self.slots).to_json())
        self.prepared = len(self._workers)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        threads = str(2 * self.slots + 1)  # for the leases of all slots, and one for those that leave theirs
        return subprocess.Popen(
            [sys.executable, str(_WORKER), str(number), threads, self._folder],
            stdin=subprocess.PIPE,  # closed when this process ends, however it ends
            bufsize=0,  # what a dead worker did not take must not be waiting in a buffer when that is closed
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env={**os.environ, **self._environments[number], "DASK_LOGGING__DISTRIBUTED": "error"},
            start_new_session=True,  # so that a Ctrl-C, or a Prefect worker's SIGTERM to the group, is ours to handle
        )

    def _keep(self) -> None:
        """Start workers again that died."""
        while not self._closing.wait(_LOOK):
            for number, worker in enumerate(self._workers):
                if worker.poll() is not None and self._restarts[number] < _RESTARTS:
                    _close_lifeline(worker)
                    self._restarts[number] += 1
                    self._workers[number] = self._start(number)
                    _tell(self._workers[number], self._first_line)

    def _last_words(self) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), 2_000, max(size - 2_000, 0)).decode("utf-8", "replace")


class _PrivateScheduler(Scheduler):  # type: ignore[misc]  # distributed is typed in part
    """A scheduler without HTTP pages, which every user of the machine could open."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Serve nothing."""


def _open_scheduler(credentials: Credentials, *, dashboard: bool) -> tuple[SpecCluster, Client]:
    """Return a scheduler in this process that only holders of the *credentials* can connect to, and a client of it."""
    security = credentials.security()
    options = {
        "host": _LOOPBACK,
        "port": 0,
        "protocol": "tls://",
        "security": security,
        "dashboard": dashboard,
        "dashboard_address": f"{_LOOPBACK}:0",
        "allowed_failures": 0,  # tries are counted by us, not by Dask
        "plugins": [ShortMessageLogs()],
    }
    scheduler = {"cls": Scheduler if dashboard else _PrivateScheduler, "options": options}
    cluster = SpecCluster(workers={}, scheduler=scheduler, security=security, silence_logs=logging.ERROR, asynchronous=False)
    try:
        client = Client(cluster, asynchronous=False, set_as_default=False)
    except BaseException:
        cluster.close(timeout=_CLOSE_TIMEOUT)
        raise
    shorten_message_log(client)
    return cluster, client


def import_dashboard() -> None:
    """Import what serves the dashboard; raises ValueError without bokeh.

    A scheduler imports it by itself, but two that start in two threads fail: one of them sees the module half imported.
    """
    with _IMPORTING:
        try:
            importlib.import_module("distributed.dashboard.scheduler")
        except ImportError as error:
            action = "pip install bokeh, or set dashboard to false"
            raise ValueError(f"dashboard is true, but bokeh cannot be imported ({error}); {action}") from error


def _tell(worker: subprocess.Popen[bytes], line: bytes) -> None:
    """Write a line to a worker's standard input; a worker that dies meanwhile is replaced, and its successor told anew."""
    assert worker.stdin is not None  # noqa: S101  a pipe was asked for; for the type checker
    with contextlib.suppress(BrokenPipeError, ValueError):  # it has died, and its input is perhaps closed already
        while line:
            line = line[worker.stdin.write(line) :]


def _close_lifeline(worker: subprocess.Popen[bytes]) -> None:
    if worker.stdin is not None:
        worker.stdin.close()


def _is_news(record: logging.LogRecord) -> bool:
    """False for complaints about leases and calls that a worker took along: the run tells that in its own words.

    At the end of a run that was done before its last node had opened, there is nothing to tell.
    """
    return LEASE_KEY not in record.getMessage() and not record.getMessage().startswith("broadcast to ")
