"""The protocols of compute targets and their clusters."""

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


class Cluster(Protocol):
    """An open Dask cluster."""

    @property
    def client(self) -> Client:
        """Return a client of the cluster's scheduler."""

    @property
    def dashboard(self) -> str:
        """Return the address of the Dask dashboard, or an empty string."""

    @property
    def slots(self) -> int | None:
        """Return the number of child processes per node; None: one per core of the node."""

    @property
    def prepared(self) -> int:
        """Return the number of nodes, named from ``node-0`` on, that received the settings before they joined the scheduler."""

    @property
    def is_here(self) -> bool:
        """True when all nodes are processes on this machine, with its files and this interpreter."""

    @property
    def is_elastic(self) -> bool:
        """True when ``scale`` adds nodes and ``release`` removes them."""

    def scale(self, nodes: int) -> None:
        """Request *nodes* nodes in total, without waiting for them.

        ``scale`` and ``release`` may be slow, and may raise any exception of the cluster.
        """

    def release(self, workers: Collection[str]) -> None:
        """Stop the workers with these addresses; they must be idle."""

    def discard(self, worker: str) -> None:
        """Kill the unresponsive worker with this name, if the cluster was opened for the step; it may be replaced."""

    def abandon(self) -> None:
        """Kill the workers, if the cluster was opened for the step; called when their work is no longer needed."""


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
