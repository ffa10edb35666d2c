"""A cluster of our own of any Dask cluster class: a batch queue, Kubernetes, machines by SSH, a cloud. Gone with the step."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Status

from prefect_parallel_run.compute.base import Request
from prefect_parallel_run.compute.bounded import CallAbandonedError, bounded
from prefect_parallel_run.compute.certificates import new_credentials
from prefect_parallel_run.compute.connect import leave, wait_for_workers
from prefect_parallel_run.compute.dask_classes import ClusterArguments, arguments_for
from prefect_parallel_run.compute.local import import_dashboard
from prefect_parallel_run.compute.scheduler import is_encrypted
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.settings import NodeSettings

_OPEN_TIMEOUT = 3600.0  #: s for a class to come back; clouds take their time
_CLOSE_TIMEOUT = 10  #: s that a cluster is told to take at its end
_LAST_TIMEOUT = {False: 60.0, True: 8.0}  #: s that it is waited for then; True: a person has cancelled, or something failed
_GRACE = 3.0  #: s for a class to come back that opens something nobody wants any more
_LOGGER = logging.getLogger(__name__)
_COUNTS = ("n_workers", "n")  #: arguments that would say how many nodes there are


class ClassTarget:
    """A Dask cluster that is opened for the step.

    Args:
        cluster_class: Dotted name.
        arguments: For the class; they win over what we would give it.
        allow_insecure: Accept a cluster without certificates: whoever reaches its ports can run code as this user.

    Raises:
        ValueError: There is no such class, or the arguments name a number of workers, which node_count does.
    """

    def __init__(self, cluster_class: str, arguments: Mapping[str, Any], *, allow_insecure: bool = False) -> None:
        self._name, self._arguments, self._allow_insecure = cluster_class, dict(arguments), allow_insecure
        if named := [name for name in _COUNTS if name in arguments]:
            raise ValueError(f"cluster_kwargs has {named[0]}; accepted: node_count says how many nodes there are")
        self._class = load_class(cluster_class)

    @contextmanager
    def open(
        self,
        request: Request,
        cancelled: threading.Event,
        settings: Future[NodeSettings],  # noqa: ARG002  its workers are told when they have joined
    ) -> Iterator[ManagedCluster]:
        """Start the cluster and wait for its workers; see Target."""
        words = arguments_for(self._name, request.first, request.slots, self._arguments, _parameters(self._class))
        if words.is_plain:
            self._refuse_plain("its connections are not encrypted")
        logging.getLogger("distributed").setLevel(logging.ERROR)
        with ExitStack() as stack:
            made = self._make(words, stack, cancelled)
            stack.callback(lambda: _close(made, is_urgent=cancelled.is_set()))
            if words.scales_by == "scale":
                self._trying(lambda: _scale(made, request.first), cancelled)
            client = self._trying(lambda: Client(made, set_as_default=False), cancelled, undo=leave)
            stack.callback(leave, client)
            if not is_encrypted(str(client.scheduler.address)):
                self._refuse_plain(f"its scheduler is at {client.scheduler.address}, which is not encrypted")
            wait_for_workers(self._name, client, request, cancelled)
            yield ManagedCluster(made, client, request.slots, is_elastic=words.scales_by != "fixed")

    def _make(self, words: ClusterArguments, stack: ExitStack, cancelled: threading.Event) -> Any:
        arguments = dict(words.arguments)
        if words.scheduler_options is not None:
            arguments[words.scheduler_options] = _with_dashboard(arguments.get(words.scheduler_options) or {})
        if words.wants_security and not self._allow_insecure:
            credentials = new_credentials()
            if words.certificate_folder is None:
                arguments["security"] = credentials.security()
            else:
                shared = arguments.get(words.certificate_folder) or Path.cwd()  # jobs see what we see there
                folder = tempfile.mkdtemp(prefix=".parallel_run_certificates_", dir=shared)
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                arguments["security"] = credentials.in_files(Path(folder))
        return self._trying(lambda: self._class(**arguments), cancelled, undo=lambda made: _close(made, is_urgent=False))

    def _refuse_plain(self, reason: str) -> None:
        """Raise ComputeTargetError for a cluster that asks nobody who they are, unless that is accepted."""
        if not self._allow_insecure:
            danger = "whoever can connect to it can run code as this user"
            action = "give it certificates, or allow_insecure=True"
            raise ComputeTargetError(self._name, f"{reason}: {danger}; {action}")

    def _trying(self, do: Callable[[], Any], cancelled: threading.Event, undo: Callable[[Any], Any] = lambda _: None) -> Any:
        """Return what *do* returns; whatever a cluster class raises is told as the compute target's failure.

        Classes that hear of no cancelling are left behind; what they open all the same is closed by *undo*.
        """
        try:
            return bounded(do, _OPEN_TIMEOUT, cancelled, grace=_GRACE, undo=undo)
        except CallAbandonedError as error:
            _LOGGER.warning(
                "%s does not come back from opening a cluster; should this process end first, close it by hand", self._name
            )
            raise ComputeTargetError(self._name, f"it cannot be opened: {error}") from error
        except Exception as error:  # what they raise has no common class
            raise ComputeTargetError(self._name, f"it cannot be opened: {type(error).__name__}: {error}") from error


class ManagedCluster:
    """A cluster that was opened for the step, and ends with it."""

    prepared = 0
    is_here = False

    def __init__(self, cluster: Any, client: Client, slots: int | None, *, is_elastic: bool) -> None:
        self._cluster, self.client, self.slots, self.is_elastic = cluster, client, slots, is_elastic
        self.dashboard: str = client.dashboard_link or ""

    def scale(self, nodes: int) -> None:
        """Ask for so many nodes; they come when they come. Raises what the cluster does."""
        _scale(self._cluster, nodes)

    def release(self, workers: Collection[str]) -> None:
        """End workers, by name where the cluster knows them so, else by telling the scheduler that they may go."""
        known = self.client.scheduler_info(n_workers=-1)["workers"]
        names = [known[address]["name"] for address in workers if address in known]
        if hasattr(self._cluster, "scale_down") and hasattr(self._cluster, "worker_spec"):
            self._cluster.sync(self._cluster.scale_down, names)
        else:  # the scheduler is asked for those that have nothing to do
            self._cluster.scale(len(known) - len(names))

    def discard(self, worker: str) -> None:
        """Nothing: the cluster notices by itself what has become of a worker."""

    def abandon(self) -> None:
        """Nothing more than closing it, which follows."""


def load_class(dotted: str) -> Any:
    """Return the class of this name; raises ValueError when there is none.

    dask_jobqueue changes what Ctrl-C does when it is imported, and can only be imported by the main thread: the handlers are
    put back, and a step imports its class when it is made.
    """
    module, _, name = dotted.rpartition(".")
    try:
        with _own_signal_handlers():
            return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"compute_target {dotted} needs the package of {error.name}, which is not installed here") from error
    except AttributeError as error:
        raise ValueError(f"compute_target {dotted}: {module} has no {name}") from error


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set by Python cannot be
                signal.signal(number, handler)


def _parameters(kind: Any) -> Collection[str]:
    try:
        return inspect.signature(kind).parameters
    except ValueError:  # written in C
        return ()


def _with_dashboard(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options of a scheduler in this process, whose dashboard can be served or is off.

    Without bokeh every scheduler tries to import the dashboard anew, and two that do so in two threads fail.
    """
    if options.get("dashboard", True):
        try:
            import_dashboard()
        except ValueError:
            if "dashboard" in options:  # the user wants it
                raise
            return {**options, "dashboard": False}
    return options


def _scale(cluster: Any, nodes: int) -> None:
    """Ask for workers, and hear what the queue says to it, where the class tells."""
    if not hasattr(cluster, "worker_spec"):
        cluster.scale(nodes)
        return

    async def grow() -> None:
        cluster.scale(nodes)
        try:
            await cluster
        except BaseException:
            _forget_unborn(cluster)
            raise

    cluster.sync(grow)


def _forget_unborn(cluster: Any) -> None:
    """Have a cluster forget workers that it could not start: it would take them for its own, and never try again."""
    for name, worker in list(cluster.workers.items()):
        if getattr(worker, "status", None) in (Status.created, Status.failed):
            del cluster.workers[name]
            cluster.worker_spec.pop(name, None)
            getattr(cluster, "_created", set()).discard(worker)  # its end would wait for theirs


def _close(cluster: Any, *, is_urgent: bool) -> None:
    try:
        bounded(lambda: _close_it(cluster), _LAST_TIMEOUT[is_urgent])
    except AssertionError:  # of a job queue that refused its jobs
        return
    except Exception as error:  # noqa: BLE001  the run is over, well or not: what a cluster says at its end changes nothing
        _LOGGER.warning("the cluster did not close well: %s: %s", type(error).__name__, error)


def _close_it(cluster: Any) -> None:
    try:
        cluster.close(timeout=_CLOSE_TIMEOUT)
    except TypeError:  # some take none
        cluster.close()
