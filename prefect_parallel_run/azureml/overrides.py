"""Applies the settings file and the driver options of Azure's users to the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect_parallel_run.azureml.options import runtime_options
from prefect_parallel_run.azureml.settings import source_settings
from prefect_parallel_run.config.model import ParallelRunConfig


def apply_azure_settings(config: ParallelRunConfig, arguments: Sequence[str]) -> tuple[ParallelRunConfig, list[str]]:
    """Return *config* with the settings file and driver options of Azure applied, and a warning for each ignored value.

    The arguments do not change: in Azure the script sees these options too. They take precedence over the settings file.

    Raises:
        ValueError: A value is invalid, or the settings file cannot be read.
    """
    from_file, from_arguments = source_settings(config), runtime_options(arguments)
    fields: dict[str, Any] = {**from_file.fields, **from_arguments.fields}
    differences = [*from_file.differences, *from_arguments.differences]
    warnings = [str(difference) for difference in differences if difference.why]
    changed = config.model_copy(update=fields) if fields else config
    return changed, warnings
