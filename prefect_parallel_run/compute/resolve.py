"""Resolves the field compute_target to a target that can be opened. A new kind of target is one entry of ``_KINDS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from distributed import Security

from prefect_parallel_run.compute.base import Target
from prefect_parallel_run.compute.cluster_class import ClassTarget
from prefect_parallel_run.compute.local import LocalTarget
from prefect_parallel_run.compute.scheduler import SchedulerTarget
from prefect_parallel_run.config.model import LOCAL
from prefect_parallel_run.config.validation import is_address, is_dotted_name
from prefect_parallel_run.config.where import ComputeTarget


class _Kind(NamedTuple):
    field: str  #: field of ComputeTarget that selects this kind
    example: str
    matches: Callable[[str], bool]  #: whether a string is a value of the field
    target: Callable[[ComputeTarget], Target]


def resolve_target(value: str | ComputeTarget) -> Target:
    """Return the target of a configuration's compute_target.

    Raises:
        ValueError: The value is invalid, its class is not installed, or it is insecure without allow_insecure.
    """
    if value == LOCAL:
        return LocalTarget()
    target = parse_target(value) if isinstance(value, str) else value
    return next(kind.target(target) for kind in _KINDS if getattr(target, kind.field) is not None)


def parse_target(name: str) -> ComputeTarget:
    """Parse a compute target that is given as a string; raises ValueError for an invalid one.

    >>> parse_target("dask_jobqueue.SLURMCluster").cluster_class
    'dask_jobqueue.SLURMCluster'
    """
    for kind in _KINDS:
        if kind.matches(name):
            return ComputeTarget.model_validate({kind.field: name})
    examples = ", ".join(kind.example for kind in _KINDS)
    raise ValueError(f"compute_target: expected '{LOCAL}', {examples}, or a ComputeTarget, got {name!r}")


def _class_target(target: ComputeTarget) -> Target:
    return ClassTarget(str(target.cluster_class), target.cluster_kwargs, allow_insecure=target.allow_insecure)


def _scheduler_target(target: ComputeTarget) -> Target:
    security = None  # the certificates of Dask's configuration
    if target.tls_ca_file is not None:
        security = Security(
            tls_ca_file=target.tls_ca_file,
            tls_client_cert=target.tls_cert_file,
            tls_client_key=target.tls_key_file,
            require_encryption=True,
        )
    return SchedulerTarget(target.address, file=target.scheduler_file, security=security, allow_insecure=target.allow_insecure)


def _is_scheduler_file(name: str) -> bool:
    return "/" in name or name.endswith(".json")


_KINDS = (  # a string is of the first kind that matches
    _Kind("address", "an address such as tls://host:8786", is_address, _scheduler_target),
    _Kind("scheduler_file", "a scheduler file", _is_scheduler_file, _scheduler_target),
    _Kind("cluster_class", "a cluster class such as 'dask_jobqueue.SLURMCluster'", is_dotted_name, _class_target),
)
