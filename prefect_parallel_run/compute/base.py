"""The protocol that every compute target follows."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from distributed import Client

from prefect_parallel_run.node.settings import NodeSettings

LEASE_KEY = "parallel-run-"  #: how the Dask keys of our leases begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a step asks a compute target for."""

    nodes: int  #: Dask workers
    at_least: int | None  #: to begin with, when fewer than *nodes* will do; None: all, as long as *timeout* allows
    slots: int | None  #: child processes per node; None: as many as each node has cores
    timeout: float  #: s to wait for nodes; then those that are there must do
    dashboard: bool = False  #: serve the Dask dashboard, where the cluster is ours

    @property
    def first(self) -> int:
        """Return how many nodes are waited for."""
        return self.nodes if self.at_least is None else self.at_least


class Cluster(Protocol):
    """An open Dask cluster."""

    @property
    def client(self) -> Client:
        """Return a client of its scheduler."""

    @property
    def dashboard(self) -> str:
        """Return the address of the Dask dashboard, or an empty text."""

    @property
    def slots(self) -> int | None:
        """Return the child processes to start per node; None leaves it to the node's cores."""

    @property
    def prepared(self) -> int:
        """Return how many nodes had the settings before they joined; their names count from ``node-0``."""

    @property
    def is_here(self) -> bool:
        """True when all nodes are processes of this machine, with its files and its interpreter."""

    @property
    def is_elastic(self) -> bool:
        """True when ``scale`` brings nodes, and ``release`` ends some."""

    def scale(self, nodes: int) -> None:
        """Ask for so many nodes in all; they come when they come.

        It, and ``release``, may take its time, and raise whatever the cluster has against it.
        """

    def release(self, workers: Collection[str]) -> None:
        """End the workers of these addresses; nothing runs on them."""

    def discard(self, worker: str) -> None:
        """End the worker of this name, if it is ours: it gives no sign of life. Another one may take its place."""

    def abandon(self) -> None:
        """End the workers at once, if they are ours; called when what they still do no longer matters."""


class Target(Protocol):
    """Somewhere to run."""

    def open(
        self, request: Request, cancelled: threading.Event, settings: Future[NodeSettings]
    ) -> AbstractContextManager[Cluster]:
        """Return an open cluster with as many workers as there are to be had.

        Once *cancelled* is set, opening ends soon, with an error. When *settings* come before the cluster is open, its nodes
        may start their children meanwhile.

        Raises:
            ComputeTargetError: It cannot be opened, or has no worker in time.
        """
