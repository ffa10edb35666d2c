"""What Azure's users say beside the configuration, in the settings file and among the arguments, taken into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect_parallel_run.azureml.options import runtime_options
from prefect_parallel_run.azureml.settings import source_settings
from prefect_parallel_run.config.model import ParallelRunConfig


def apply_azure_settings(config: ParallelRunConfig, arguments: Sequence[str]) -> tuple[ParallelRunConfig, list[str]]:
    """Return *config* with what the settings file and the options of Azure's driver say, and a warning for what is not kept.

    The arguments stay what they are: in Azure the script sees these options too. They count more than the settings file.

    Raises:
        ValueError: A value is wrong, or the settings file cannot be read.
    """
    from_file, from_arguments = source_settings(config), runtime_options(arguments)
    fields: dict[str, Any] = {**from_file.fields, **from_arguments.fields}
    differences = [*from_file.differences, *from_arguments.differences]
    words = [str(one) for one in differences if one.why]
    changed = config.model_copy(update=fields) if fields else config
    return changed, words
