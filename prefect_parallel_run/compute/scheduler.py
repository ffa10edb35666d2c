"""A running Dask scheduler, by address or scheduler file, or the one that the step itself runs in.

Its workers, settings and other users' work are not touched.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Security, get_worker, secede

from prefect_parallel_run.compute.base import Cluster, Request, connect, leave, wait_for_workers, worker_count
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.settings import NodeSettings

_ENCRYPTED = ("tls", "wss", "gateway", "inproc")  #: schemes that other users cannot eavesdrop on


class SchedulerTarget:
    """An existing scheduler.

    Args:
        address: Address of the scheduler; alternatively
        file: the scheduler's file.
        security: Client certificates; None uses those of Dask's configuration.
        allow_insecure: Accept an unencrypted connection to another machine.

    Raises:
        ValueError: The connection to another machine would be unencrypted, without allow_insecure.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        file: str | None = None,
        security: Security | None = None,
        allow_insecure: bool = False,
    ) -> None:
        self.address, self._file, self._security = address, file, security
        self._allow_insecure = allow_insecure
        if address is not None:
            refuse_insecure(address, allow_insecure)

    @contextmanager
    def open(
        self,
        request: Request,
        cancelled: threading.Event,
        settings: Future[NodeSettings],  # noqa: ARG002  shared workers receive the settings after they are selected
    ) -> Iterator[Cluster]:
        """Use the scheduler's workers; see Target."""
        logging.getLogger("distributed").setLevel(logging.ERROR)
        address = self.address or self._address_in_file()
        target = str(self._file or address)
        refuse_insecure(address, self._allow_insecure)
        client = connect(target, address, self._security, cancelled)
        try:
            wait_for_workers(target, request, cancelled, lambda: worker_count(target, client, cancelled))
            yield Cluster(client, request.slots)
        finally:
            leave(client)

    def _address_in_file(self) -> str:
        path = Path(str(self._file))
        try:
            address = json.loads(path.read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a Dask scheduler file"
            raise ComputeTargetError(str(path), f"cannot read the scheduler file: {reason}") from error
        return str(address)


class EnclosingClusterTarget(SchedulerTarget):
    """The workers of the cluster that the step was submitted to, or that its flow has opened.

    Args:
        address: Address of the scheduler.
        security: Certificates of the scheduler.
        is_inside: The step itself runs in a task of this cluster, and must not block a worker thread.
    """

    def __init__(self, address: str, security: Security | None, *, is_inside: bool) -> None:
        super().__init__(address, security=security, allow_insecure=True)  # this process already uses that connection
        self._is_inside = is_inside

    def secede(self) -> None:
        """Release the worker's thread for other tasks; must be called by the step's thread."""
        if self._is_inside:
            secede()


def enclosing_target(task_runner: Any) -> EnclosingClusterTarget | None:
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


def refuse_insecure(address: str, allow_insecure: bool) -> None:
    """Raise ValueError for an unencrypted connection to another machine: the network could read and alter everything.

    >>> refuse_insecure("tcp://127.0.0.1:8786", False)
    >>> refuse_insecure("tcp://192.0.2.1:8786", False)
    Traceback (most recent call last):
    ...
    ValueError: compute_target tcp://192.0.2.1:8786 is unencrypted and on another host; use tls:// or allow_insecure=True
    """
    if not (allow_insecure or is_encrypted(address) or _is_this_machine(urlsplit(address).hostname or "")):
        raise ValueError(f"compute_target {address} is unencrypted and on another host; use tls:// or allow_insecure=True")


def is_encrypted(address: str) -> bool:
    """False for a connection without encryption and authentication.

    >>> [is_encrypted(address) for address in ("tls://127.0.0.1:8786", "tcp://127.0.0.1:8786")]
    [True, False]
    """
    return urlsplit(address).scheme in _ENCRYPTED


def _is_this_machine(host: str) -> bool:
    """True when all addresses of *host* are this machine's own."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:  # unknown host: connecting will report it
        return False
    return all(_is_own(address) for address in addresses)


def _is_own(address: str) -> bool:
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))  # succeeds only for an address of this machine
        except OSError:
            return False
    return True
