"""Parallel batch processing as a Prefect task: Azure ML's ParallelRunStep on Prefect and Dask.

Public names are loaded on first use, so that a child process that imports the package never waits for Prefect or Dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_HOME = {
    "ParallelRunConfig": "config.model",
    "Environment": "config.where",
    "ComputeTarget": "config.where",
    "DaskComputeTarget": "compute.blocks",
    "FileDataset": "datasets.files",
    "TabularDataset": "datasets.tabular",
    "EntryScript": "child.entry_script",
    "NoRetry": "child.entry_script",
    "RetryLater": "child.entry_script",
    "ParallelRunStep": "step",
    "FunctionStep": "function_step",
    "parallel_run": "functions",
    "ParallelRunResult": "result",
    "TrialResult": "execution.trial",
    "ParallelRunError": "errors",
    "LimitExceededError": "errors",
    "EntryScriptError": "errors",
    "InputError": "errors",
    "InputChangedError": "errors",
    "OutputError": "errors",
    "RowsDifferError": "errors",
    "RunFileError": "errors",
    "RunLockedError": "errors",
    "NothingSucceededError": "errors",
    "ComputeTargetError": "errors",
    "EnvironmentSetupError": "errors",
    "PrefectHomeError": "errors",
}

__all__ = [
    "ComputeTarget",
    "ComputeTargetError",
    "DaskComputeTarget",
    "EntryScript",
    "EntryScriptError",
    "Environment",
    "EnvironmentSetupError",
    "FileDataset",
    "FunctionStep",
    "InputChangedError",
    "InputError",
    "LimitExceededError",
    "NoRetry",
    "NothingSucceededError",
    "OutputError",
    "ParallelRunConfig",
    "ParallelRunError",
    "ParallelRunResult",
    "ParallelRunStep",
    "PrefectHomeError",
    "RetryLater",
    "RowsDifferError",
    "RunFileError",
    "RunLockedError",
    "TabularDataset",
    "TrialResult",
    "parallel_run",
]

if TYPE_CHECKING:
    from prefect_parallel_run.child.entry_script import EntryScript, NoRetry, RetryLater
    from prefect_parallel_run.compute.blocks import DaskComputeTarget
    from prefect_parallel_run.config.model import ParallelRunConfig
    from prefect_parallel_run.config.where import ComputeTarget, Environment
    from prefect_parallel_run.datasets.files import FileDataset
    from prefect_parallel_run.datasets.tabular import TabularDataset
    from prefect_parallel_run.errors import (
        ComputeTargetError,
        EntryScriptError,
        EnvironmentSetupError,
        InputChangedError,
        InputError,
        LimitExceededError,
        NothingSucceededError,
        OutputError,
        ParallelRunError,
        PrefectHomeError,
        RowsDifferError,
        RunFileError,
        RunLockedError,
    )
    from prefect_parallel_run.execution.trial import TrialResult
    from prefect_parallel_run.function_step import FunctionStep
    from prefect_parallel_run.functions import parallel_run
    from prefect_parallel_run.result import ParallelRunResult
    from prefect_parallel_run.step import ParallelRunStep


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
