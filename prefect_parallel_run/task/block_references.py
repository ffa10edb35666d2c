"""References to Prefect's blocks and variables in a configuration, resolved as late as possible: when the step runs."""

from __future__ import annotations

import re
from typing import Any, cast

from prefect.exceptions import ObjectNotFound
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.templating import resolve_block_document_references, resolve_variables

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import ComputeTarget

_REFERENCE = re.compile(r"\{\{.*?prefect\.(blocks|variables)\..*?\}\}")


def resolve_environment_variables(config: ParallelRunConfig) -> ParallelRunConfig:
    """Return *config* with resolved environment_variables; the values are never written to a file.

    Raises:
        ValueError: The block or variable does not exist.
    """
    variables = config.environment_variables
    if not any(_REFERENCE.search(text) for text in variables.values()):
        return config
    values = {name: _value(f"environment_variables[{name!r}]", text) for name, text in variables.items()}
    return config.model_copy(update={"environment_variables": {name: str(value) for name, value in values.items()}})


def resolve_compute_target(target: str | ComputeTarget) -> str | ComputeTarget:
    """Return a compute target with its references resolved: a saved block, or secrets in the arguments of a cluster class.

    Raises:
        ValueError: The block does not exist, or does not hold a compute target.
    """
    if isinstance(target, ComputeTarget):
        if not _REFERENCE.search(str(target.cluster_kwargs)):
            return target
        return target.model_copy(update={"cluster_kwargs": _value("cluster_kwargs", target.cluster_kwargs)})
    if not _REFERENCE.search(target):
        return target
    value = _value("compute_target", target)
    if not isinstance(value, dict):
        raise ValueError(f"compute_target is {target!r}; expected a reference to a block that holds a compute target")
    return ComputeTarget(**{name: field for name, field in value.items() if name in ComputeTarget.model_fields})


def _value(field: str, template: Any) -> Any:
    """Return *template* with its references replaced; an error names the reference, never a value."""
    try:
        value = run_coro_as_sync(_resolve(template))
    except (ObjectNotFound, ValueError) as error:
        raise ValueError(f"{field}: not found in Prefect: {error}") from None
    if (missing := _REFERENCE.search(str(value))) is not None:
        raise ValueError(f"{field}: not found in Prefect: {missing[0]}")
    return value


async def _resolve(template: Any) -> Any:
    resolve = cast("Any", resolve_block_document_references)  # a decorator injects its client, which type checkers do not see
    return await cast("Any", resolve_variables)(await resolve(template))
