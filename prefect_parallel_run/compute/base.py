"""The protocol that every compute target follows."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from distributed import Client

from prefect_parallel_run.node.settings import NodeSettings

LEASE_KEY = "parallel-run-"  #: how the Dask keys of our leases begin


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

    def discard(self, worker: str) -> None:
        """End the worker of this name, if it is ours: it gives no sign of life. Another one may take its place."""

    def abandon(self) -> None:
        """End the workers at once, if they are ours; called when what they still do no longer matters."""


class Target(Protocol):
    """Somewhere to run."""

    def open(
        self, nodes: int, slots: int | None, cancelled: threading.Event, settings: Future[NodeSettings]
    ) -> AbstractContextManager[Cluster]:
        """Return an open cluster with *nodes* workers, each for *slots* child processes (None: as many as it has cores).

        Once *cancelled* is set, opening ends soon, with an error. When *settings* come before the cluster is open, its nodes
        may start their children meanwhile.

        Raises:
            ComputeTargetError: It cannot be opened.
        """
