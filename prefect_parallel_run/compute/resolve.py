"""Resolves the field compute_target to a target that can be opened."""

from __future__ import annotations

from distributed import Security

from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.compute.cluster_class import ClassTarget
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.compute.scheduler import SchedulerTarget
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.config.validation import is_address, is_dotted_name
from prefect_parallel_run.config.where import ComputeTarget

_EXPECTED = (
    "'local', an address such as tls://host:8786, a scheduler file, a cluster class such as 'dask_jobqueue.SLURMCluster',"
    " or a ComputeTarget"
)


def target_of(value: str | ComputeTarget) -> Target:
    """Return the target of a configuration's compute_target.

    Raises:
        ValueError: The value is invalid, its class is not installed, or it is insecure without allow_insecure.
    """
    if value == LOCAL:
        return LocalTarget()
    target = described(value) if isinstance(value, str) else value
    if target.cluster_class is not None:
        return ClassTarget(target.cluster_class, target.cluster_kwargs, allow_insecure=target.allow_insecure)
    return SchedulerTarget(
        target.address, file=target.scheduler_file, security=_security(target), allow_insecure=target.allow_insecure
    )


def described(name: str) -> ComputeTarget:
    """Parse a compute target that is given as a string; raises ValueError for an invalid one.

    >>> described("dask_jobqueue.SLURMCluster").cluster_class
    'dask_jobqueue.SLURMCluster'
    """
    if is_address(name):
        return ComputeTarget(address=name)
    if "/" in name or name.endswith(".json"):
        return ComputeTarget(scheduler_file=name)
    if is_dotted_name(name):
        return ComputeTarget(cluster_class=name)
    raise ValueError(f"compute_target: expected {_EXPECTED}, got {name!r}")


def _security(target: ComputeTarget) -> Security | None:
    """Return the target's certificates; None uses those of Dask's configuration."""
    if target.tls_ca_file is None:
        return None
    return Security(
        tls_ca_file=target.tls_ca_file,
        tls_client_cert=target.tls_cert_file,
        tls_client_key=target.tls_key_file,
        require_encryption=True,
    )
