"""Loads any Azure ML file that describes a parallel run step or its table: ``load(path)``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect_parallel_run.azureml.findings import PARALLEL, Difference, Outcome
from prefect_parallel_run.azureml.mltable import FILE_NAME, load_mltable
from prefect_parallel_run.azureml.references import References
from prefect_parallel_run.azureml.step import ImportedStep
from prefect_parallel_run.azureml.v1 import load_v1
from prefect_parallel_run.azureml.v2 import load_jobs
from prefect_parallel_run.config.model import ParallelRunConfig
from prefect_parallel_run.config.yaml_reader import Section, read_document
from prefect_parallel_run.datasets.base import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The content of a file: steps, or the dataset of an MLTable file; and the differences of the rest of the file."""

    file: Path
    steps: tuple[ImportedStep, ...] = ()
    dataset: Dataset | None = None
    differences: tuple[Difference, ...] = ()  #: those of the whole file; each step has its own

    @property
    def undecided(self) -> list[Difference]:
        """Return the decisions that are required before anything can run."""
        groups = [self.differences, *(step.differences for step in self.steps)]
        return [difference for group in groups for difference in group if difference.outcome is Outcome.OPEN]


def load(path: str | os.PathLike[str], references: Mapping[str, str] | None = None) -> Imported:
    """Load an Azure ML file.

    Args:
        path: A ParallelRunConfig written by ``save_to_yaml`` (version 1); a pipeline job, parallel job or parallel component
            (version 2); an MLTable file, or its folder.
        references: Paths, URLs or compute targets for names that only an Azure workspace can resolve, and values of inputs,
            such as ``{"azureml:iris:1": "/data/iris"}``; a reference that ends in ``/`` applies to all that start with it.

    Raises:
        ValueError: The file is none of these, is invalid or not supported, or lacks one of *references*.
        OSError: The file cannot be read.
    """
    file = Path(path)
    known = References(references)
    imported = _load(file, known)
    if known.unused():
        raise ValueError(f"{file}: the file has no reference {', '.join(known.unused())}")
    return imported


def _load(file: Path, references: References) -> Imported:
    if file.is_dir() and not (file / FILE_NAME).is_file():
        raise ValueError(f"{file}: the folder lacks a file {FILE_NAME}; expected a YAML file, or a folder with {FILE_NAME}")
    document = Section(file) if file.is_dir() or file.name == FILE_NAME else read_document(file)
    if "parallel_run_config" in document or _is_without_root_key(document):
        return Imported(file=file, steps=(load_v1(file, references),))
    if not document or document.get("type") == "mltable" or "paths" in document:
        table = load_mltable(file, references)
        return Imported(file=file, dataset=table.dataset, differences=tuple(table.differences))
    steps, differences = load_jobs(document, references)
    return Imported(file=file, steps=tuple(steps), differences=tuple(differences))


def _is_without_root_key(document: Section) -> bool:
    """True for the fields of a ParallelRunConfig at the top level; the reader of version 1 reports the missing root key."""
    only = {*ParallelRunConfig.model_fields, "compute_target_name"} - PARALLEL
    return bool(only & document.keys()) and not {"type", "task", "jobs"} & document.keys()
