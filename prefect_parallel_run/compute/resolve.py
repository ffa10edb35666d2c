"""From the field compute_target to the target that opens it."""

from __future__ import annotations

from distributed import Security

from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.compute.cluster_class import ClassTarget
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.compute.scheduler import SchedulerTarget
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.config.validation import is_address, is_dotted_name
from prefect_parallel_run.config.where import ComputeTarget

_ACCEPTED = (
    "'local', an address such as tls://host:8786, a scheduler file, a cluster class such as 'dask_jobqueue.SLURMCluster',"
    " or a ComputeTarget"
)


def target_of(given: str | ComputeTarget) -> Target:
    """Return what a compute_target stands for.

    Raises:
        ValueError: It stands for nothing, its class is not installed, or it is not safe and that is not accepted.
    """
    if given == LOCAL:
        return LocalTarget()
    named = described(given) if isinstance(given, str) else given
    if named.cluster_class is not None:
        return ClassTarget(named.cluster_class, named.cluster_kwargs, allow_insecure=named.allow_insecure)
    return SchedulerTarget(
        named.address, file=named.scheduler_file, security=_security(named), allow_insecure=named.allow_insecure
    )


def described(name: str) -> ComputeTarget:
    """Return a compute target that is given as a text, in full; raises ValueError for one that is none.

    >>> described("dask_jobqueue.SLURMCluster").cluster_class
    'dask_jobqueue.SLURMCluster'
    """
    if is_address(name):
        return ComputeTarget(address=name)
    if "/" in name or name.endswith(".json"):
        return ComputeTarget(scheduler_file=name)
    if is_dotted_name(name):
        return ComputeTarget(cluster_class=name)
    raise ValueError(f"compute_target is {name!r}; accepted: {_ACCEPTED}")


def _security(target: ComputeTarget) -> Security | None:
    """Return certificates; None leaves them to Dask's own configuration."""
    if target.tls_ca_file is None:
        return None
    return Security(
        tls_ca_file=target.tls_ca_file,
        tls_client_cert=target.tls_cert_file,
        tls_client_key=target.tls_key_file,
        require_encryption=True,
    )
