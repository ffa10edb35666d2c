"""Prefect's blocks: a compute target as a block, and references to blocks and variables, resolved when the step runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.templating import resolve_block_document_references, resolve_variables
from pydantic import Field

from prefect_parallel_run.config.where import ComputeTarget

if TYPE_CHECKING:
    from prefect_parallel_run.config.model import ParallelRunConfig  # Prefect's server and workers import this module at start

_REFERENCE = re.compile(r"\{\{.*?prefect\.(blocks|variables)\..*?\}\}")
_VARIABLE = re.compile(r"\{\{\s*prefect\.variables\.([\w.$\[\]-]+)\s*\}\}")
_ADVICE = 'check the name with `prefect block ls`, or create the block, for example Secret(value="…").save("NAME")'


class DaskComputeTarget(Block):
    """A Dask cluster to run ParallelRunSteps on.

    Example:
        Load a saved target and run a step on it:
        ```python
        from prefect_parallel_run import DaskComputeTarget, ParallelRunConfig

        target = DaskComputeTarget.load("BLOCK_NAME")
        config = ParallelRunConfig(
            entry_script="score.py", error_threshold=0, output_action="append_row", compute_target=target
        )
        ```
    """

    _block_type_name = "Dask Compute Target"
    _block_type_slug = "dask-compute-target"
    _logo_url = "https://avatars.githubusercontent.com/u/17131925?s=200&v=4"  # type: ignore[assignment]  # Prefect converts it
    _documentation_url = "https://docs.dask.org/en/stable/deploying.html"  # type: ignore[assignment]  # Prefect converts it
    _description = "A Dask cluster to run ParallelRunSteps on: a running scheduler, or a cluster class that opens one."

    address: str | None = Field(default=None, description="tcp:// or tls:// address of a running scheduler.")
    scheduler_file: str | None = Field(default=None, description="Path of a running scheduler's file.")
    cluster_class: str | None = Field(default=None, description="Dotted name of a Dask cluster class.")
    cluster_kwargs: SecretDict = Field(default=SecretDict({}), description="Arguments of the cluster class; kept secret.")
    allow_insecure: bool = Field(
        default=False,
        description="Accept connections without TLS: a tcp:// scheduler on another host, or a class without certificates.",
    )
    tls_ca_file: str | None = Field(default=None, description="Certificate authority of a tls:// scheduler; a PEM file.")
    tls_cert_file: str | None = Field(default=None, description="Client certificate for a tls:// scheduler; a PEM file.")
    tls_key_file: str | None = Field(default=None, description="The certificate's key; a PEM file.")

    def compute_target(self) -> ComputeTarget:
        """Return the block's compute target; raises ValueError when its fields are inconsistent."""
        values: dict[str, Any] = {name: getattr(self, name) for name in ComputeTarget.model_fields}
        return ComputeTarget(**{**values, "cluster_kwargs": self.cluster_kwargs.get_secret_value()})

    def as_compute_target(self) -> ComputeTarget | str:
        """Return the value for a configuration: a saved block is referenced by name, so that its secrets are not copied."""
        target = self.compute_target()  # validates now, not when the step runs
        if self._block_document_name is not None:
            return f"{{{{ prefect.blocks.{self.get_block_type_slug()}.{self._block_document_name} }}}}"
        if target.cluster_kwargs:
            raise ValueError("the block is not saved, but its cluster_kwargs are secret; save the block first")
        return target


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
        raise ValueError(f"compute_target is {target!r}; expected a reference to a block that holds a compute target")  # noqa: TRY004  a wrong value
    return ComputeTarget(**{name: field for name, field in value.items() if name in ComputeTarget.model_fields})


def resolve_reference(text: str) -> str:
    """Return the value of a reference in the URI of a database; raises ValueError if its block does not exist."""
    return str(_value("uri", text))


def _value(field: str, template: Any) -> Any:
    """Return *template* with its references replaced; an error names the reference, never a value."""
    for name in sorted(set(_VARIABLE.findall(str(template)))):
        if run_coro_as_sync(_variable(name)) is None:
            advice = "check the name with `prefect variable ls`, or create it with `prefect variable set`"
            raise ValueError(f"{field}: not found in Prefect: variable {name!r}; {advice}")
    try:
        value = run_coro_as_sync(_resolve(template))
    except ObjectNotFound as error:
        reason = str(error).partition(". This block was referenced in your deployment")[0]
        raise ValueError(f"{field}: not found in Prefect: {reason}; {_ADVICE}") from None
    except ValueError as error:  # the block exists, or the reference names none
        raise ValueError(f"{field}: Prefect cannot resolve it: {error}") from None
    if (missing := _REFERENCE.search(str(value))) is not None:
        raise ValueError(f"{field}: not found in Prefect: {missing[0]}")
    return value


async def _variable(name: str) -> Any:
    """Return a variable, or None if it does not exist; Prefect would replace a reference to it by an empty string."""
    async with get_client() as client:
        return await client.read_variable_by_name(name)


async def _resolve(template: Any) -> Any:
    resolve = cast("Any", resolve_block_document_references)  # a decorator injects its client, which type checkers do not see
    return await cast("Any", resolve_variables)(await resolve(template))
