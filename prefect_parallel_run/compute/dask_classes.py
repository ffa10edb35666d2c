"""The arguments of each Dask cluster class for a number of nodes and processes. Pure: imports and opens nothing of Dask.

A node is one Dask worker process. Its number of threads does not matter, because leases secede, but it needs at least one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

_LOOPBACK = "127.0.0.1"
_LOCAL_PORT = "127.0.0.1:0"  #: for dashboards: only users of this machine can reach them
_ACCOUNTING = {"allowed_failures": 0}  #: scheduler option: attempts are counted by the dispatcher, not by Dask
_QUEUES = ("SLURM", "PBS", "SGE", "HTCondor", "LSF", "OAR", "Moab")

ScalesBy = Literal["n_workers", "scale", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterArguments:
    """The arguments of a cluster class, and how to use it."""

    arguments: Mapping[str, Any]  #: complete: the defaults, overridden by the user's cluster_kwargs option by option
    scales_by: ScalesBy  #: nodes are requested by this argument or by ``cluster.scale(nodes)``, or fixed by the arguments
    wants_security: bool = False  #: it accepts ``security=``, which the user has not set: pass certificates
    is_plain: bool = False  #: it does not accept certificates, or its protocol is not encrypted: requires allow_insecure
    certificate_folder: str | None = None  #: name of the argument for a folder that all nodes share, for the certificates
    scheduler_options: str | None = None  #: name of the argument for scheduler options, if the scheduler runs in this process


def arguments_for(
    cluster_class: str, nodes: int, slots: int | None, cluster_kwargs: Mapping[str, Any], accepted: Collection[str] = ()
) -> ClusterArguments:
    """Return the arguments for *cluster_class* to open *nodes* workers, each with *slots* child processes.

    Args:
        cluster_class: Dotted name, through any module of its package.
        nodes: Dask worker processes.
        slots: Child processes per node; None: one per core of the node.
        cluster_kwargs: The user's arguments. They override the defaults; nested options are merged.
        accepted: Names of the class's parameters; used only for an unknown class.

    >>> arguments_for("dask.distributed.LocalCluster", 3, 2, {}).arguments["n_workers"]
    3
    >>> arguments_for("dask_jobqueue.SLURMCluster", 3, 2, {"queue": "long"}).scales_by
    'scale'
    """
    package, _, name = cluster_class.partition(".")
    adapter = _ADAPTERS.get((_PACKAGES.get(package, package), name.rpartition(".")[2]))
    request = _Request(nodes, slots, cluster_kwargs)
    return _any_class(request, accepted) if adapter is None else adapter(request)


class _Request(NamedTuple):
    nodes: int
    slots: int | None
    overrides: Mapping[str, Any]  #: the user's arguments

    def merged(self, **defaults: Any) -> dict[str, Any]:
        """Merge the overrides into *defaults*: nested options are merged one level deep, lists are concatenated."""
        merged = {**defaults, **self.overrides}
        for name in defaults.keys() & self.overrides.keys():
            default, override = defaults[name], self.overrides[name]
            if isinstance(default, Mapping) and isinstance(override, Mapping):
                merged[name] = {**default, **override}
            elif isinstance(default, list) and isinstance(override, list):
                merged[name] = [*default, *override]
        return merged

    def with_certificates(self, **fields: Any) -> ClusterArguments:
        """Return the arguments of a class that accepts ``security=`` and ``protocol=``."""
        is_plain = not _is_encrypted(self.overrides.get("protocol"))
        return ClusterArguments(wants_security="security" not in self.overrides, is_plain=is_plain, **fields)


def _local(request: _Request) -> ClusterArguments:
    """distributed.LocalCluster: workers on this machine; on loopback unless the user sets another interface.

    Uses certificates on loopback too: every user of the machine can connect to it.
    """
    arguments = request.merged(
        n_workers=request.nodes,
        threads_per_worker=request.slots or 1,
        dashboard_address=_LOCAL_PORT,
        memory_limit=0,  # the data is in the children; pausing a worker would only stall them
        scheduler_kwargs=_ACCOUNTING,
    )
    if "interface" not in arguments:
        arguments.setdefault("host", _LOOPBACK)
    return request.with_certificates(arguments=arguments, scales_by="n_workers", scheduler_options="scheduler_kwargs")


def _job_queue(request: _Request) -> ClusterArguments:
    """The queues of dask_jobqueue: one worker process per job; the scheduler runs in the flow's process.

    Nodes are requested by scale(): errors of sbatch or qsub are only reported when scaling is awaited, not with n_workers.
    """
    arguments = request.merged(
        **({} if request.slots is None else {"cores": request.slots}),
        processes=1,
        scheduler_options={**_ACCOUNTING, "dashboard_address": _LOCAL_PORT},
        worker_extra_args=["--no-dashboard", "--dashboard-address", _LOCAL_PORT],
    )
    return request.with_certificates(
        arguments=arguments,
        scales_by="scale",
        certificate_folder="shared_temp_directory",
        scheduler_options="scheduler_options",
    )


def _local_job_queue(request: _Request) -> ClusterArguments:
    """dask_jobqueue's own LocalCluster, which runs its jobs on this machine."""
    on_loopback = request.merged(
        scheduler_options={"host": _LOOPBACK}, worker_extra_args=["--host", _LOOPBACK], cores=request.slots or 1
    )
    return _job_queue(request._replace(overrides=on_loopback))


def _kubernetes(request: _Request) -> ClusterArguments:
    """KubeCluster: pods of the Dask operator. It lacks TLS; use a network policy to protect its ports."""
    if "custom_cluster_spec" in request.overrides:  # it has its own number of workers, and n_workers is ignored
        return ClusterArguments(arguments=request.merged(quiet=True), scales_by="scale", is_plain=True)
    return ClusterArguments(arguments=request.merged(n_workers=request.nodes, quiet=True), scales_by="n_workers", is_plain=True)


def _gateway(request: _Request) -> ClusterArguments:
    """GatewayCluster: the gateway has its own certificates, and refuses unknown options."""
    return ClusterArguments(arguments=request.merged(), scales_by="scale")


def _coiled(request: _Request) -> ClusterArguments:
    """coiled.Cluster: machines in a cloud, with their own certificates. Without n_workers it would scale adaptively."""
    return ClusterArguments(arguments=request.merged(n_workers=request.nodes, wait_for_workers=False), scales_by="n_workers")


def _ssh(request: _Request) -> ClusterArguments:
    """SSHCluster: the scheduler on the first host, a worker on each other host. It cannot scale.

    It does not accept security=, but uses TLS if its protocol is tls:// and Dask's configuration names files on all hosts.
    """
    worker = {"nthreads": request.slots or 1, "memory_limit": 0, "dashboard": False, "dashboard_address": _LOCAL_PORT}
    arguments = request.merged(scheduler_options={**_ACCOUNTING, "dashboard_address": _LOCAL_PORT}, worker_options=worker)
    for name in ("hosts", "connect_options", "remote_python"):  # a list has one entry per host
        if isinstance(arguments.get(name), list):
            arguments[name] = arguments[name][: request.nodes + 1]
    protocol = arguments["scheduler_options"].get("protocol", "tcp")
    return ClusterArguments(arguments=arguments, scales_by="fixed", is_plain=not _is_encrypted(protocol))


def _any_class(request: _Request, accepted: Collection[str]) -> ClusterArguments:
    """An unknown class: its parameters decide how nodes are requested, its scheduler's address whether it is encrypted."""
    wants_security = "security" in accepted and "security" not in request.overrides
    if "n_workers" in accepted:
        arguments = request.merged(n_workers=request.nodes)
        return ClusterArguments(arguments=arguments, scales_by="n_workers", wants_security=wants_security)
    return ClusterArguments(arguments=request.merged(), scales_by="scale", wants_security=wants_security)


def _is_encrypted(protocol: object) -> bool:
    """False for an explicit unencrypted protocol; without one, certificates select an encrypted protocol."""
    return protocol is None or str(protocol).startswith(("tls", "wss"))


_PACKAGES = {"dask": "distributed"}  #: dask.distributed.X is distributed.X
#: package and class; a new cluster class is one function above and one line here
_ADAPTERS: Mapping[tuple[str, str], Callable[[_Request], ClusterArguments]] = {
    ("distributed", "LocalCluster"): _local,
    ("distributed", "SSHCluster"): _ssh,
    ("dask_cuda", "LocalCUDACluster"): _local,  # one GPU per worker
    ("dask_jobqueue", "LocalCluster"): _local_job_queue,
    **{("dask_jobqueue", f"{queue}Cluster"): _job_queue for queue in _QUEUES},
    ("dask_kubernetes", "KubeCluster"): _kubernetes,
    ("dask_gateway", "GatewayCluster"): _gateway,
    ("coiled", "Cluster"): _coiled,
}
