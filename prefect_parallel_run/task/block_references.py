"""References to Prefect's blocks and variables in a configuration, replaced as late as possible: when the step runs."""

from __future__ import annotations

import re
from typing import Any, cast

from prefect.exceptions import ObjectNotFound
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.templating import resolve_block_document_references, resolve_variables

from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.where import ComputeTarget

_REFERENCE = re.compile(r"\{\{.*?prefect\.(blocks|variables)\..*?\}\}")


def resolved_variables(config: ParallelRunConfig) -> ParallelRunConfig:
    """Return *config* with the values that environment_variables refer to; nothing writes these down.

    Raises:
        ValueError: There is no such block or variable.
    """
    given = config.environment_variables
    if not any(_REFERENCE.search(text) for text in given.values()):
        return config
    values = {name: _value(f"environment_variables[{name!r}]", text) for name, text in given.items()}
    return config.model_copy(update={"environment_variables": {name: str(value) for name, value in values.items()}})


def resolved_target(given: str | ComputeTarget) -> str | ComputeTarget:
    """Return a compute target with all it refers to: a saved block, or secrets among the arguments of a cluster class.

    Raises:
        ValueError: There is no such block, or it holds no compute target.
    """
    if isinstance(given, ComputeTarget):
        if not _REFERENCE.search(str(given.cluster_kwargs)):
            return given
        return given.model_copy(update={"cluster_kwargs": _value("cluster_kwargs", given.cluster_kwargs)})
    if not _REFERENCE.search(given):
        return given
    value = _value("compute_target", given)
    if not isinstance(value, dict):
        raise ValueError(f"compute_target is {given!r}; accepted: a reference to a block that holds a compute target")  # noqa: TRY004  it is the configuration that is wrong
    return ComputeTarget(**{name: field for name, field in value.items() if name in ComputeTarget.model_fields})


def _value(field: str, given: Any) -> Any:
    """Return *given* with its references replaced; an error names the reference, never a value."""
    try:
        found = run_coro_as_sync(_resolve(given))
    except (ObjectNotFound, ValueError) as error:
        raise ValueError(f"{field} refers to what Prefect does not have: {error}") from None
    if _REFERENCE.search(str(found)):
        raise ValueError(f"{field} refers to what Prefect does not have: {_REFERENCE.search(str(found))[0]}")  # type: ignore[index]  # just found
    return found


async def _resolve(given: Any) -> Any:
    resolve = cast("Any", resolve_block_document_references)  # its client is given by a decorator that types do not know
    return await cast("Any", resolve_variables)(await resolve(given))
