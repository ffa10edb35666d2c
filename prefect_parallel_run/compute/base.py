"""What compute targets and their clusters have in common."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from distributed import Client

from prefect_parallel_run.node.settings import NodeSettings

LEASE_KEY = "parallel-run-"  #: prefix of the Dask keys of leases


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
