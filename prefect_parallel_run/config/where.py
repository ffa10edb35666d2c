"""The place where a script runs: its environment and its cluster. The nested models of ParallelRunConfig."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from prefect_parallel_run._units import shown
from prefect_parallel_run.config.base import FormModel
from prefect_parallel_run.config.validation import (
    ADDRESS,
    file_to_read,
    interpreter,
    is_address,
    is_dotted_name,
    optional,
    requirement_lines,
)

_CLASS_EXAMPLE = "'dask_jobqueue.SLURMCluster'"


class Environment(FormModel):
    """Packages that are installed once per node, on top of an interpreter or a conda environment, and cached."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, json_schema_extra={"title": "Packages"}
    )

    requirements: Annotated[list[str], BeforeValidator(requirement_lines)] = Field(default=[], title="Requirements")
    """Packages in pip's syntax, such as numpy==2.2; lines of a requirements file, one per entry."""
    python: Annotated[str | None, BeforeValidator(interpreter)] = Field(default=None, title="Python")
    """Base interpreter: a version such as 3.11, or a path; empty: the one that runs the Dask worker."""
    conda_file: Annotated[str | None, BeforeValidator(file_to_read)] = Field(default=None, title="Conda file")
    """Environment file for conda; it determines the Python version, so leave the field Python empty."""
    name: Annotated[str | None, optional("a string", lambda value: isinstance(value, str))] = Field(default=None, title="Name")
    """Display text."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Environment:
        if self.conda_file is not None and self.python is not None:
            version = shown(self.python)
            raise ValueError(f"python is {version}, but conda_file determines the Python version; set one of them, not both")
        return self


class ComputeTarget(FormModel):
    """A Dask cluster: the address or scheduler file of an existing one, or a class that opens one; exactly one of these."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, json_schema_extra={"title": "Cluster"}
    )

    address: str | None = Field(default=None, title="Address")
    """Address of a running scheduler, such as tls://host:8786 or tcp://127.0.0.1:8786."""
    scheduler_file: str | None = Field(default=None, title="Scheduler file")
    """Path of the file written by a running scheduler."""
    cluster_class: str | None = Field(default=None, title="Cluster class")
    """Dotted name of a Dask cluster class to open for the step, such as dask_jobqueue.SLURMCluster."""
    cluster_kwargs: dict[str, Any] = Field(default={}, repr=False, title="Arguments of the cluster class")
    """A JSON object, such as {"queue": "normal"}. Store passwords in a Prefect secret and refer to it as "{{
    prefect.blocks.secret.NAME }}"."""
    allow_insecure: bool = Field(default=False, title="Allow insecure")
    """Accept connections without TLS: a tcp:// scheduler on another host, or a cluster class without TLS."""
    tls_ca_file: str | None = Field(default=None, title="TLS: authority")
    """Certificate authority of a tls:// scheduler; path of a PEM file."""
    tls_cert_file: str | None = Field(default=None, title="TLS: certificate")
    """Client certificate for a tls:// scheduler; path of a PEM file."""
    tls_key_file: str | None = Field(default=None, title="TLS: key")
    """The certificate's key; path of a PEM file."""

    @field_validator("cluster_kwargs")
    @classmethod
    def _is_plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Reject values other than JSON, since they are stored in YAML files and run directories and filled in from forms."""
        try:
            json.dumps(arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"cluster_kwargs: {error}; expected strings, numbers, true, false, None, lists, mappings"
            ) from None
        return arguments

    @model_validator(mode="after")
    def _check_combinations(self) -> ComputeTarget:
        targets = [self.address, self.scheduler_file, self.cluster_class]
        if sum(value is not None for value in targets) != 1:
            raise ValueError("a compute target is exactly one of address, scheduler_file and cluster_class")
        if self.address is not None and not is_address(self.address):
            raise ValueError(f"address is {shown(self.address)}; expected {ADDRESS}")
        if self.cluster_class is not None and not is_dotted_name(self.cluster_class):
            raise ValueError(f"cluster_class is {shown(self.cluster_class)}; expected a dotted name such as {_CLASS_EXAMPLE}")
        if self.cluster_kwargs and self.cluster_class is None:
            raise ValueError("cluster_kwargs are the arguments of a cluster_class; set cluster_class as well")
        files = [self.tls_ca_file, self.tls_cert_file, self.tls_key_file]
        if any(files) and not all(files):
            raise ValueError("tls_ca_file, tls_cert_file and tls_key_file belong together; set all three or none")
        if any(files) and self.cluster_class is not None:
            raise ValueError("tls_… files do not apply to a cluster_class; pass its certificates in cluster_kwargs")
        return self
