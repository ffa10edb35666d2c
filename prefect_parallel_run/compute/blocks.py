"""A compute target as a Prefect block: it can be chosen in the UI, and credentials stay out of flow files."""

from __future__ import annotations

from typing import Any

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field

from prefect_parallel_run.config.where import ComputeTarget


class DaskComputeTarget(Block):
    """A Dask cluster to run ParallelRunSteps on.

    Attributes:
        address: tcp:// or tls:// address of a running scheduler.
        scheduler_file: Path of a running scheduler's file.
        cluster_class: Dotted name of a Dask cluster class, opened for each step.
        cluster_kwargs: Arguments of the cluster class.
        allow_insecure: Accept connections without TLS: a tcp:// scheduler on another host, or a class without certificates.
        tls_ca_file: Certificate authority of a tls:// scheduler.
        tls_cert_file: Client certificate for a tls:// scheduler.
        tls_key_file: The certificate's key.

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
            return reference(self._block_document_name)
        if target.cluster_kwargs:
            raise ValueError("the block is not saved, but its cluster_kwargs are secret; save the block first")
        return target


def reference(name: str) -> str:
    """Return the reference to a saved block, for a configuration.

    >>> reference("gpu-queue")
    '{{ prefect.blocks.dask-compute-target.gpu-queue }}'
    """
    return f"{{{{ prefect.blocks.{DaskComputeTarget.get_block_type_slug()}.{name} }}}}"
