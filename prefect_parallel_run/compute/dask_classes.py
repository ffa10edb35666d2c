"""How each Dask cluster class spells a number of nodes and of processes. Pure: no Dask, nothing is imported or opened.

A node is one Dask worker process. Its threads do not matter, because leases secede from them, but there must be one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_LOOPBACK = "127.0.0.1"
_LOCAL_PORT = "127.0.0.1:0"  #: for dashboards: whoever may log in to the machine reaches them, and nobody else
_ACCOUNTING = {"allowed_failures": 0}  #: of a scheduler: tries are counted by us, not by Dask
_QUEUES = ("SLURM", "PBS", "SGE", "HTCondor", "LSF", "OAR", "Moab")

ScalesBy = Literal["n_workers", "scale", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterArguments:
    """What a cluster class is called with, and what is to be done besides."""

    arguments: Mapping[str, Any]  #: complete: our defaults, the user's cluster_kwargs over them, option by option
    scales_by: ScalesBy  #: nodes are asked for by this argument, by ``cluster.scale(nodes)``, or are what the arguments name
    wants_security: bool = False  #: it takes ``security=`` and was given none: it is to be given certificates
    is_plain: bool = False  #: it takes none, or its protocol is not encrypted: it needs allow_insecure
    certificate_folder: str | None = None  #: argument for a folder that all nodes see, where it puts the certificates
    scheduler_options: str | None = None  #: argument for options of the scheduler, where that runs in this process


def arguments_for(
    cluster_class: str, nodes: int, slots: int | None, cluster_kwargs: Mapping[str, Any], accepted: Collection[str] = ()
) -> ClusterArguments:
    """Return how to ask *cluster_class* for *nodes* workers, each for *slots* child processes.

    Args:
        cluster_class: Dotted name; any module of its package will do.
        nodes: Dask worker processes.
        slots: Child processes per node; None: as many as the node has cores.
        cluster_kwargs: The user's arguments. They win over ours; in ``scheduler_options`` and its like, option by option.
        accepted: Names of the class's parameters; looked at only when the class is none that we know.

    >>> arguments_for("dask.distributed.LocalCluster", 3, 2, {}).arguments["n_workers"]
    3
    >>> arguments_for("dask_jobqueue.SLURMCluster", 3, 2, {"queue": "long"}).scales_by
    'scale'
    """
    package, _, name = cluster_class.partition(".")
    speak = _ADAPTERS.get((_PACKAGES.get(package, package), name.rpartition(".")[2]))
    if speak is None:
        return _any_class(nodes, cluster_kwargs, accepted)
    return speak(nodes, slots, cluster_kwargs)


def _local(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:
    """distributed.LocalCluster: workers on this machine; on loopback unless the user says otherwise.

    With certificates there as well: every user of the machine can connect to its loopback.
    """
    ours = {
        "n_workers": nodes,
        "threads_per_worker": slots or 1,
        "dashboard_address": _LOCAL_PORT,
        "memory_limit": 0,  # the data is in the children; a worker that is paused would only stall them
        "scheduler_kwargs": _ACCOUNTING,
    }
    if "interface" not in given:
        ours["host"] = _LOOPBACK
    return ClusterArguments(
        arguments=_over(ours, given),
        scales_by="n_workers",
        wants_security="security" not in given,
        is_plain=not _is_encrypted(given.get("protocol")),
        scheduler_options="scheduler_kwargs",
    )


def _job_queue(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:  # noqa: ARG001  asked for by scale()
    """The queues of dask_jobqueue: one worker process per job; the scheduler runs in the flow's process.

    By scale(): what sbatch or qsub complain of is only heard when scaling is awaited, not when n_workers is given.
    """
    ours: dict[str, Any] = {
        "processes": 1,
        "scheduler_options": {**_ACCOUNTING, "dashboard_address": _LOCAL_PORT},
        "worker_extra_args": ["--no-dashboard", "--dashboard-address", _LOCAL_PORT],
    }
    if slots is not None:
        ours["cores"] = slots
    return ClusterArguments(
        arguments=_over(ours, given),
        scales_by="scale",
        wants_security="security" not in given,
        is_plain=not _is_encrypted(given.get("protocol")),
        certificate_folder="shared_temp_directory",
        scheduler_options="scheduler_options",
    )


def _job_queue_here(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:
    """dask_jobqueue's own LocalCluster, which runs its jobs on this machine."""
    host = _LOOPBACK
    ours = {"scheduler_options": {"host": host}, "worker_extra_args": ["--host", host], "cores": slots or 1}
    return _job_queue(nodes, slots, _over(ours, given))


def _kubernetes(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:  # noqa: ARG001  resources are the user's
    """KubeCluster: pods of the Dask operator. It has no TLS; a network policy keeps others off its ports."""
    if "custom_cluster_spec" in given:  # which has its own number of workers, and hides n_workers
        return ClusterArguments(arguments=_over({"quiet": True}, given), scales_by="scale", is_plain=True)
    return ClusterArguments(arguments=_over({"n_workers": nodes, "quiet": True}, given), scales_by="n_workers", is_plain=True)


def _gateway(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:  # noqa: ARG001  options are the gateway's
    """GatewayCluster: the gateway brings its own certificates, and refuses options that it does not know."""
    return ClusterArguments(arguments=dict(given), scales_by="scale")


def _coiled(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:  # noqa: ARG001  machines are the user's choice
    """coiled.Cluster: machines in a cloud, with certificates of their own. Without n_workers it would scale by itself."""
    return ClusterArguments(arguments=_over({"n_workers": nodes, "wait_for_workers": False}, given), scales_by="n_workers")


def _ssh(nodes: int, slots: int | None, given: Mapping[str, Any]) -> ClusterArguments:
    """SSHCluster: the scheduler on the first host, a worker on each of the others. It cannot scale.

    It takes no security=, but speaks TLS when its protocol is tls:// and Dask's configuration names files that all hosts have.
    """
    ours = {
        "scheduler_options": {**_ACCOUNTING, "dashboard_address": _LOCAL_PORT},
        "worker_options": {"nthreads": slots or 1, "memory_limit": 0, "dashboard": False, "dashboard_address": _LOCAL_PORT},
    }
    arguments = _over(ours, given)
    for name in ("hosts", "connect_options", "remote_python"):  # a list has one entry per host
        if isinstance(arguments.get(name), list):
            arguments[name] = arguments[name][: nodes + 1]
    protocol = arguments["scheduler_options"].get("protocol", "tcp")
    return ClusterArguments(arguments=arguments, scales_by="fixed", is_plain=not _is_encrypted(protocol))


def _any_class(nodes: int, given: Mapping[str, Any], accepted: Collection[str]) -> ClusterArguments:
    """A class that we do not know; what it takes says how it is asked, its scheduler's address whether it is plain."""
    takes_number = "n_workers" in accepted
    return ClusterArguments(
        arguments=_over({"n_workers": nodes} if takes_number else {}, given),
        scales_by="n_workers" if takes_number else "scale",
        wants_security="security" in accepted and "security" not in given,
    )


_PACKAGES = {"dask": "distributed"}  #: dask.distributed.X is distributed.X
_ADAPTERS: Mapping[tuple[str, str], Callable[[int, int | None, Mapping[str, Any]], ClusterArguments]] = {
    ("distributed", "LocalCluster"): _local,
    ("distributed", "SSHCluster"): _ssh,
    ("dask_cuda", "LocalCUDACluster"): _local,  # one GPU per worker
    ("dask_jobqueue", "LocalCluster"): _job_queue_here,
    **{("dask_jobqueue", f"{queue}Cluster"): _job_queue for queue in _QUEUES},
    ("dask_kubernetes", "KubeCluster"): _kubernetes,
    ("dask_gateway", "GatewayCluster"): _gateway,
    ("coiled", "Cluster"): _coiled,
}


def _over(ours: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return *ours* with what is *given* over it; options within options likewise, lists of arguments one after the other."""
    merged = {**ours, **given}
    for name in ours.keys() & given.keys():
        first, then = ours[name], given[name]
        if isinstance(first, Mapping) and isinstance(then, Mapping):
            merged[name] = {**first, **then}
        elif isinstance(first, list) and isinstance(then, list):
            merged[name] = [*first, *then]
    return merged


def _is_encrypted(protocol: object) -> bool:
    """False for a protocol that is named and not encrypted; without a name, certificates choose an encrypted one."""
    return protocol is None or str(protocol).startswith(("tls", "wss"))
