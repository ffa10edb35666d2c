"""A managed cluster of any Dask cluster class: a batch queue, Kubernetes, machines by SSH, a cloud. Closed with the step."""

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

from prefect_parallel_run._threads import CallAbandonedError, call_with_timeout
from prefect_parallel_run.compute.base import Cluster, Request, leave, read_workers, wait_for_workers, worker_count
from prefect_parallel_run.compute.certificates import new_credentials
from prefect_parallel_run.compute.dask_classes import ClusterArguments, arguments_for
from prefect_parallel_run.compute.local import import_dashboard
from prefect_parallel_run.compute.scheduler import is_encrypted
from prefect_parallel_run.errors import ComputeTargetError
from prefect_parallel_run.node.settings import NodeSettings

_OPEN_TIMEOUT = 3600.0  #: s; clouds are slow
_CLOSE_TIMEOUT = 10  #: s, passed to the cluster's close()
_LAST_TIMEOUT = {False: 60.0, True: 8.0}  #: s to wait for close(); True: after a cancellation or an error
_GRACE = 3.0  #: s to wait for a class that is opening a cluster after a cancellation
_LOGGER = logging.getLogger(__name__)
_COUNTS = ("n_workers", "n")  #: arguments that would set the number of nodes


class ClassTarget:
    """A Dask cluster that is opened for the step.

    Args:
        cluster_class: Dotted name.
        arguments: Arguments of the class; they override the defaults.
        allow_insecure: Accept a cluster without certificates: anyone who can reach its ports can run code as this user.

    Raises:
        ValueError: The class does not exist, or the arguments set a number of workers, which is the task of node_count.
    """

    def __init__(self, cluster_class: str, arguments: Mapping[str, Any], *, allow_insecure: bool = False) -> None:
        self._name, self._arguments, self._allow_insecure = cluster_class, dict(arguments), allow_insecure
        if named := [name for name in _COUNTS if name in arguments]:
            raise ValueError(f"cluster_kwargs must not contain {named[0]}; set node_count instead")
        self._class = load_class(cluster_class)

    @contextmanager
    def open(
        self,
        request: Request,
        cancelled: threading.Event,
        settings: Future[NodeSettings],  # noqa: ARG002  its workers receive the settings after they have joined
    ) -> Iterator[ManagedCluster]:
        """Start the cluster and wait for its workers; see Target."""
        plan = arguments_for(self._name, request.first, request.slots, self._arguments, _parameters(self._class))
        if plan.is_plain:
            self._refuse_plain("its connections are not encrypted")
        logging.getLogger("distributed").setLevel(logging.ERROR)
        with ExitStack() as stack:
            cluster = self._create(plan, stack, cancelled)
            stack.callback(lambda: _close(cluster, is_urgent=cancelled.is_set()))
            if plan.scales_by == "scale":
                self._try(lambda: _scale(cluster, request.first), cancelled)
            client = self._try(lambda: Client(cluster, set_as_default=False), cancelled, undo=leave)
            stack.callback(leave, client)
            if not is_encrypted(str(client.scheduler.address)):
                self._refuse_plain(f"the connection to its scheduler at {client.scheduler.address} is not encrypted")
            wait_for_workers(self._name, request, cancelled, lambda: worker_count(self._name, client, cancelled))
            yield ManagedCluster(cluster, client, request.slots, is_elastic=plan.scales_by != "fixed")

    def _create(self, plan: ClusterArguments, stack: ExitStack, cancelled: threading.Event) -> Any:
        arguments = dict(plan.arguments)
        if plan.scheduler_options is not None:
            arguments[plan.scheduler_options] = _with_dashboard(arguments.get(plan.scheduler_options) or {})
        if plan.wants_security and not self._allow_insecure:
            credentials = new_credentials()
            if plan.certificate_folder is None:
                arguments["security"] = credentials.security()
            else:
                shared = arguments.get(plan.certificate_folder) or Path.cwd()  # a folder that the jobs share
                folder = tempfile.mkdtemp(prefix=".parallel_run_certificates_", dir=shared)
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                arguments["security"] = credentials.in_files(Path(folder))
        return self._try(lambda: self._class(**arguments), cancelled, undo=lambda late: _close(late, is_urgent=False))

    def _refuse_plain(self, reason: str) -> None:
        """Raise ComputeTargetError for a cluster without authentication, unless allow_insecure is set."""
        if not self._allow_insecure:
            danger = "anyone who can connect to it can run code as this user"
            action = "configure certificates, or set allow_insecure=True"
            raise ComputeTargetError(self._name, f"{reason}: {danger}; {action}")

    def _try(self, call: Callable[[], Any], cancelled: threading.Event, undo: Callable[[Any], Any] = lambda _: None) -> Any:
        """Return the result of *call*; raise any exception of the cluster class as ComputeTargetError.

        A call that ignores cancellation continues in the background; if it still opens a cluster, *undo* closes it.
        """
        try:
            return call_with_timeout(call, _OPEN_TIMEOUT, cancelled, grace=_GRACE, undo=undo)
        except CallAbandonedError as error:
            _LOGGER.warning("opening %s did not return; if this process exits first, close the cluster manually", self._name)
            raise ComputeTargetError(self._name, f"cannot open the cluster: {error}") from error
        except Exception as error:  # the exceptions of cluster classes have no common class
            raise ComputeTargetError(self._name, f"cannot open the cluster: {type(error).__name__}: {error}") from error


class ManagedCluster(Cluster):
    """A cluster that was opened for the step and is closed with it. It detects lost workers itself."""

    def __init__(self, cluster: Any, client: Client, slots: int | None, *, is_elastic: bool) -> None:
        super().__init__(client, slots)
        self._cluster, self.is_elastic = cluster, is_elastic

    def scale(self, nodes: int) -> None:
        """Request *nodes* nodes, without waiting for them; raises any exception of the cluster."""
        _scale(self._cluster, nodes)

    def release(self, workers: Collection[str]) -> None:
        """Stop workers, by name if the cluster supports that, else by reducing their number."""
        known = read_workers(self.client)
        names = [known[address]["name"] for address in workers if address in known]
        if hasattr(self._cluster, "scale_down") and hasattr(self._cluster, "worker_spec"):
            self._cluster.sync(self._cluster.scale_down, names)
        else:  # the scheduler chooses idle workers
            self._cluster.scale(len(known) - len(names))


def load_class(dotted: str) -> Any:
    """Import a class by its dotted name; raises ValueError when it does not exist.

    dask_jobqueue changes the signal handlers when it is imported, and can only be imported by the main thread: so this restores
    the handlers, and a step imports its class when it is created.
    """
    module, _, name = dotted.rpartition(".")
    try:
        with _signal_handlers_restored():
            return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"compute_target {dotted}: install the package that provides {error.name}") from error
    except AttributeError as error:
        raise ValueError(f"compute_target {dotted}: module {module} has no attribute {name}") from error


@contextlib.contextmanager
def _signal_handlers_restored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that Python has not set cannot be restored
                signal.signal(number, handler)


def _parameters(kind: Any) -> Collection[str]:
    try:
        return inspect.signature(kind).parameters
    except ValueError:  # written in C
        return ()


def _with_dashboard(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the scheduler's options, with the dashboard turned off if it cannot be imported.

    Without bokeh every scheduler tries again to import the dashboard, and two that do so in two threads fail.
    """
    if options.get("dashboard", True):
        try:
            import_dashboard()
        except ValueError:
            if "dashboard" in options:  # requested by the user
                raise
            return {**options, "dashboard": False}
    return options


def _scale(cluster: Any, nodes: int) -> None:
    """Request workers, and raise the queue's error if the class reports one."""
    if not hasattr(cluster, "worker_spec"):
        cluster.scale(nodes)
        return

    async def grow() -> None:
        cluster.scale(nodes)
        try:
            await cluster
        except BaseException:
            _remove_failed_workers(cluster)
            raise

    cluster.sync(grow)


def _remove_failed_workers(cluster: Any) -> None:
    """Remove workers that a cluster could not start: it would count them as running, and never retry."""
    for name, worker in list(cluster.workers.items()):
        if getattr(worker, "status", None) in (Status.created, Status.failed):
            del cluster.workers[name]
            cluster.worker_spec.pop(name, None)
            getattr(cluster, "_created", set()).discard(worker)  # close() would wait for them


def _close(cluster: Any, *, is_urgent: bool) -> None:
    try:
        call_with_timeout(lambda: _call_close(cluster), _LAST_TIMEOUT[is_urgent])
    except AssertionError:  # raised when a job queue has refused the jobs
        return
    except Exception as error:  # noqa: BLE001  an error in close() must not change the result of the run
        _LOGGER.warning("closing the cluster failed: %s: %s", type(error).__name__, error)


def _call_close(cluster: Any) -> None:
    try:
        cluster.close(timeout=_CLOSE_TIMEOUT)
    except TypeError:  # some classes do not accept a timeout
        cluster.close()
