"""What compute targets and their clusters have in common, and how they connect to a scheduler and wait for its workers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Client, Security

from prefect_parallel_run._threads import CallAbandonedError, call_with_timeout
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.settings import NodeSettings

LEASE_KEY = "parallel-run-"  #: prefix of the Dask keys of leases
_CONNECT_SLICE = 5.0  #: s of one attempt; errors that another attempt cannot fix are reported after the first
_CONNECT_TIMEOUT = 30.0  #: s
_ANSWER_TIMEOUT = 30.0  #: s for a scheduler to answer
_LEAVE_TIMEOUT = 2.0  #: s for the client to close
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The nodes that a step requests from a compute target."""

    nodes: int  #: Dask workers
    at_least: int | None  #: enough to start with; None: wait for all *nodes*, up to *timeout*
    slots: int | None  #: child processes per node; None: one per core of the node
    timeout: float  #: s to wait for nodes; then the step starts with the available ones
    dashboard: bool = False  #: serve the Dask dashboard, if the cluster is opened for the step

    @property
    def first(self) -> int:
        """Return the number of nodes to wait for."""
        return self.nodes if self.at_least is None else self.at_least


class Cluster:
    """An open Dask cluster. This class is one that outlives the step: its workers are used, but neither added nor stopped."""

    prepared = 0  #: number of nodes, named from ``node-0`` on, that received the settings before they joined the scheduler
    cores: int | None = None  #: cores per node of a local cluster; None: each node determines its own
    is_here = False  #: all nodes are processes on this machine, with its files and this interpreter
    is_elastic = False  #: ``scale`` adds nodes and ``release`` removes them

    def __init__(self, client: Client, slots: int | None) -> None:
        self.client = client
        self.slots = slots  #: child processes per node; None: one per core of the node
        self.dashboard: str = client.dashboard_link or ""  #: address of the Dask dashboard

    def scale(self, nodes: int) -> None:
        """Request *nodes* nodes in total, without waiting for them.

        ``scale`` and ``release`` may be slow, and may raise any exception of the cluster.
        """

    def release(self, workers: Collection[str]) -> None:
        """Stop the workers with these addresses; they must be idle."""

    def discard(self, worker: str) -> None:
        """Kill the unresponsive worker with this name, unless the cluster itself detects lost workers."""

    def abandon(self) -> None:
        """Kill the workers now if closing the cluster would wait for them; called when their work is no longer needed."""


class Target(Protocol):
    """A compute target."""

    def open(
        self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]
    ) -> AbstractContextManager[Cluster]:
        """Open a cluster with the requested workers, or the available ones.

        Once *cancelled* is set, opening soon raises an error. When *settings* are set before the cluster is open, its nodes
        may start their children meanwhile.

        Raises:
            ComputeTargetError: The cluster cannot be opened, or has no worker in time.
        """


def connect(target: str, address: str, security: Security | None, cancelled: threading.Event) -> Client:
    """Return a client of the scheduler at *address*.

    Args:
        target: The user's name for it, for errors.
        address: In Dask's notation.
        security: Certificates; None uses those of Dask's configuration.
        cancelled: Ends the attempt.

    Raises:
        ComputeTargetError: The scheduler does not answer, or refuses the connection.
    """
    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while not cancelled.is_set():
        try:
            # A stopped or hanging scheduler accepts the connection and never answers.
            return call_with_timeout(
                lambda: Client(address, security=security, timeout=_CONNECT_SLICE, set_as_default=False),
                _CONNECT_TIMEOUT,
                cancelled,
                undo=leave,
            )
        except CallAbandonedError as error:
            raise ComputeTargetError(target, f"the scheduler at {address}: {error}") from error
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > deadline or _is_final(error):
                raise ComputeTargetError(target, f"no scheduler answers at {address}: {_cause(error)}") from error
        except (ValueError, TypeError, RuntimeError) as error:  # an address or certificates that Dask cannot use
            raise ComputeTargetError(target, f"{address}: {error}") from error
    raise ComputeTargetError(target, "cancelled")


def leave(client: Client) -> None:
    """Close a client; a scheduler that does not receive this detects the closed connection later."""
    try:
        call_with_timeout(lambda: client.close(timeout=_LEAVE_TIMEOUT), 2 * _LEAVE_TIMEOUT)
    except (OSError, asyncio.TimeoutError, CancelledError, CallAbandonedError) as error:
        _LOGGER.debug("closing the connection to the scheduler failed: %s: %s", type(error).__name__, error)


def wait_for_workers(
    target: str, request: Request, cancelled: threading.Event, count: Callable[[], int], interval: float = 0.1
) -> None:
    """Wait for the first workers of *request*; at its timeout, return if there is at least one.

    Args:
        target: The user's name for the cluster, for errors.
        request: Number of workers, and timeout.
        cancelled: Ends the wait.
        count: Returns the number of workers; may raise ComputeTargetError when none can join any more.
        interval: s between two calls of *count*.

    Raises:
        ComputeTargetError: No worker has joined at the timeout, or the wait was cancelled.
    """
    deadline = time.monotonic() + request.timeout
    while (workers := count()) < request.first:
        if time.monotonic() > deadline:
            if workers:
                return
            raise ComputeTargetError(target, f"no worker joined within node_start_timeout = {request.timeout:g} s")
        if cancelled.wait(interval):
            raise ComputeTargetError(target, "cancelled")


def worker_count(target: str, client: Client, cancelled: threading.Event) -> int:
    """Return the number of the scheduler's workers; raises ComputeTargetError when it does not answer."""
    try:
        return len(call_with_timeout(client.nthreads, _ANSWER_TIMEOUT, cancelled))
    except (CallAbandonedError, OSError, asyncio.TimeoutError, CancelledError) as error:
        raise ComputeTargetError(target, f"the scheduler does not answer: {error}") from error


def read_workers(client: Client) -> dict[str, Any]:
    """Return the scheduler's information about its workers, by address; raises any exception of the connection.

    Do not use Client.scheduler_info(): it returns the client's cache, which Dask's periodic update may already have replaced
    by one that lists no workers.
    """
    if client.scheduler is None:  # the client closed because it lost its scheduler
        raise OSError("lost the connection to the scheduler")
    workers: dict[str, Any] = client.sync(client.scheduler.identity)["workers"]
    return workers


def _is_final(error: BaseException) -> bool:
    """True for errors that a second attempt cannot fix: missing or refused certificates."""
    text = _cause(error).lower()
    return isinstance(error, FileNotFoundError | PermissionError) or "certificate" in text or "ssl" in text


def _cause(error: BaseException) -> str:
    """Return the innermost cause; Dask's own exception only says that it timed out."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
